"""Training on a ComfyUI MODEL that is a DiT: a run that was killed ends in the bits of an uninterrupted one."""

import shutil
from types import SimpleNamespace

import flux
import pytest
import torch
from dit_lab import CONTEXT, DitSource
from lab import STAGE, everything

from facecdm.errors import UnsupportedModel
from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.losses import DiffusionLoss, LocalisationLoss
from facecdm.training.step import Term
from facecdm.training.trainer import Trainer

STEPS, KILLED = 4, 2


@pytest.fixture(params=["flux", "chroma"])
def model(in_comfy, request):
    sizes = dict(context_in_dim=CONTEXT, depth=1, depth_single_blocks=1)
    return flux.make_flux(**sizes) if request.param == "flux" else flux.make_chroma(**sizes)


def train(model, folder, watch=None) -> Trainer:
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    data = DitSource()
    stage = STAGE.with_settings(steps=STEPS, batch=2, accumulation=2, checkpointing=True, learning_rate=1e-2)
    terms = [
        Term("diffusion", DiffusionLoss()),
        Term("localisation", LocalisationLoss(), 0.1, needs=frozenset({"outputs"})),
    ]
    with ComfyDitDenoiser(model) as denoiser:
        sizes = dict(face_rank=8, face_tokens=2, image_tokens=2, image_layers=1, token_width=64, cell_width=64)
        trainer = Trainer(denoiser, new_adapter(denoiser, data, **sizes), Lora(), data, stage, terms, folder)
        trainer.run(watch)
    return trainer


def test_killed_and_resumed_ends_in_the_same_bits(model, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def keep(trainer: Trainer) -> None:  # what a kill in this step leaves on disk
        if trainer.step == KILLED:
            shutil.copytree(whole, killed)

    first = train(model, whole, keep)
    steps = []
    second = train(model, killed, lambda trainer: steps.append(trainer.step))
    torch.set_num_threads(threads)
    assert steps[0] in (KILLED, KILLED + 1) and steps[-1] == STEPS
    assert second.history == first.history
    ours, theirs = everything(first), everything(second)
    assert ours.keys() == theirs.keys() and any(".lora" in name or "lora." in name for name in ours)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


@pytest.mark.parametrize("name", ["Flux2", "ChromaRadiance", "LongCatImage"])
def test_other_models_that_inherit_flux_are_refused(in_comfy, monkeypatch, name):
    """LongCat-Image's positions, for example, are set outside of the network that training calls."""
    import comfy.model_base

    from facecdm.hosts.comfy.dit import check_trainable

    if not hasattr(comfy.model_base, name):  # in an older ComfyUI
        monkeypatch.setattr(comfy.model_base, name, type(name, (comfy.model_base.Flux,), {}), raising=False)
    kind = getattr(comfy.model_base, name)
    with pytest.raises(UnsupportedModel, match=f"this MODEL is a {name}"):
        check_trainable(SimpleNamespace(model=kind.__new__(kind)))
