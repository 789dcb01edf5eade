"""`python -m facecdm train` on a Flux.1 folder as diffusers saves it: data set, config.yaml, three stages, files."""

import json
import shutil

import pytest
import torch
from dit_folder import check_three_stages, small_data, train, write
from flux_folder import CONTEXT, POOLED, make_folder
from safetensors.torch import load_file, save_file
from tensors import close

from facecdm.errors import BadFile, FaceCDMError, MissingModel, UnsupportedModel
from facecdm.hosts.diffusers.denoiser import open_base
from facecdm.hosts.diffusers.dit_encoders import open_encoders

CAPTIONS = ("a woman in a garden", "word " * 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, comfyui):
    place = tmp_path_factory.mktemp("flux")
    return place, make_folder(place, comfyui)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    return small_data(folder[0], tmp_path_factory.mktemp("data"), CAPTIONS)


@torch.no_grad()
def test_prompts_are_those_of_the_pipeline(folder):
    encoders = open_encoders(folder[0])
    assert (encoders.resolution, encoders.step, encoders.large, encoders.pooled) == (1024, 16, False, True)
    for prompt, caption, length in zip(encoders.text(CAPTIONS), CAPTIONS, (256, 301)):
        states, pooled, _ = folder[1].encode_prompt(caption, caption, device="cpu", max_sequence_length=length)
        close(prompt.states, states, 1e-5)
        close(prompt.pooled, pooled, 1e-5)
    pixels = torch.rand(1, 32, 64, 3)
    pushed = folder[1].vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    close(encoders.latents(pixels), (pushed - 0.1159) * 0.3611, 1e-5)


def test_a_batch_holds_prompts_at_their_own_lengths(data):
    (bucket,) = data.buckets
    prompt = data.load(bucket).prompt
    assert sorted(prompt.lengths.tolist()) == [256] * 5 + [301] and prompt.states.shape == (6, 301, CONTEXT)
    assert prompt.pooled.shape == (6, POOLED) and prompt.sizes is None
    assert data.empty_prompt.lengths.tolist() == [256]
    row = int(prompt.lengths.argmin())
    assert not prompt.states[row, 256:].any() and prompt.mask.sum(1).tolist() == prompt.lengths.tolist()


def test_three_stages(folder, data, tmp_path, capsys):
    assert train(write(tmp_path, folder[0], data)) == 0
    assert "rank 0" in capsys.readouterr().out
    check_three_stages(tmp_path / "run", "transformer.single_transformer_blocks.0.attn.to_q")


def test_a_stopped_run_resumes_exactly(folder, data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for place in (whole, parts):
        place.mkdir()
    stages = {"identity": {"steps": 0}, "fine": {"steps": 0}}
    plan = {"stages": stages, "all": {"steps": 4, "batch": 2, "save_every": 2, "identity": 0.0, "drop_face": 0.0}}
    train(write(whole, folder[0], data, **plan))
    path = write(parts, folder[0], data, **plan)
    from facecdm.training import trainer

    taken = trainer.Trainer._train_step

    def stop(self, chosen):
        if self.step == 2:
            raise KeyboardInterrupt
        taken(self, chosen)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_train_step", stop)
        train(path)
    train(path)
    one, other = (load_file(place / "run" / "adapter.safetensors") for place in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_few_steps_lower_the_loss(folder, data, tmp_path):
    plan = {
        "stages": {"identity": {"steps": 0}, "fine": {"steps": 0}},
        "all": {"steps": 16, "batch": 3, "learning_rate": 1e-2, "warmup": 0, "face_region": 0.0, "noise_share": 0.0},
    }
    train(write(tmp_path, folder[0], data, **plan))
    lines = [json.loads(line) for line in (tmp_path / "run" / "broad.jsonl").read_text().splitlines()]
    losses = [line["diffusion"] for line in lines if "diffusion" in line]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_refused(folder, tmp_path):
    with pytest.raises(UnsupportedModel, match="ControlNet"):
        open_base(str(folder[0]), "cpu", tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(MissingModel, match="no vae/"):
        open_base(str(tmp_path), "cpu")
    for part in ("vae", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    with pytest.raises(FaceCDMError, match="WanTransformer3DModel"):
        open_base(str(tmp_path), "cpu")
    (tmp_path / "transformer" / "config.json").write_text("{")
    with pytest.raises(BadFile, match="config.json cannot be read"):
        open_base(str(tmp_path), "cpu")


def test_a_transformer_with_nan_is_refused(folder, tmp_path):
    shutil.copytree(folder[0], tmp_path / "flux")
    path = next((tmp_path / "flux" / "transformer").glob("*.safetensors"))
    weights = load_file(path)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan) for name in sorted(weights)[:1]}, path)
    with pytest.raises(BadFile, match="flux"):
        open_base(str(tmp_path / "flux"), "cpu")
