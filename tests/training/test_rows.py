"""Prompts of several lengths in a batch, and the empty text in place of some of them."""

import pytest
import sd35
import torch
import z_image
from dit_lab import DitSource, Shrink
from lab import CONTEXT, STAGE, tiny_denoiser

from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.losses import DiffusionLoss
from facecdm.training.preview import preview
from facecdm.training.rows import Prompt, without_text
from facecdm.training.step import Term
from facecdm.training.trainer import Trainer

SIZES = dict(face_rank=8, face_tokens=2, image_tokens=2, image_layers=1, token_width=64, cell_width=64)


def of_lengths(*lengths: int) -> Prompt:
    states = torch.randn(len(lengths), max(lengths), CONTEXT, generator=torch.Generator().manual_seed(0))
    return Prompt(states, lengths=torch.tensor(lengths))


def test_prompts_of_one_length_have_no_padding_and_no_mask():
    prompt, empty = of_lengths(9, 5, 5), of_lengths(3)
    assert prompt.mask is not None
    for rows in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True])):
        part = prompt.part(rows)
        assert part.mask is None and torch.equal(part.states, prompt.states[1:, :5])
    dropped = without_text(prompt, empty, torch.tensor([True, True, True]))
    assert dropped.mask is None and torch.equal(dropped.states, empty.states.expand(3, -1, -1))
    some = without_text(prompt, empty, torch.tensor([True, False, False]))
    assert some.lengths.tolist() == [3, 5, 5] and torch.equal(some.states[1:], prompt.states[1:, :5])
    assert torch.equal(some.states[:1, :3], empty.states) and not some.states[0, 3:].any()


@torch.no_grad()
def test_a_u_net_predicts_the_same_for_an_empty_text_beside_a_long_caption():
    """Its cross-attention has no mask: padding would change it, repeated tokens do not."""
    denoiser, x, t = tiny_denoiser(), torch.randn(2, 4, 8, 8), torch.tensor([300, 700])
    empty = Prompt(torch.randn(1, 7, CONTEXT))
    long, off = Prompt(torch.randn(2, 21, CONTEXT)), torch.tensor([True, True])
    expected = denoiser.predict(x, t, Prompt(empty.states.expand(2, -1, -1)))
    torch.testing.assert_close(denoiser.predict(x, t, without_text(long, empty, off)), expected)


@pytest.fixture(scope="module", params=[sd35, z_image], ids=["sd35", "z_image"])
def twins(request, in_comfy):
    return request.param.make_twins()


@pytest.mark.parametrize("host", ["comfy", "diffusers"])
def test_captions_of_several_lengths_are_trained_one_by_one(twins, host, tmp_path):
    """Models without a mask take dropped texts and draw previews, whatever the captions' lengths are."""
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser
    from facecdm.hosts.diffusers.dit_denoiser import DiffusersDitDenoiser

    data = DitSource()
    data.empty_prompt = Prompt(data.empty_prompt.states[:, :3], data.empty_prompt.pooled, lengths=torch.tensor([3]))
    with ComfyDitDenoiser(twins[0]) as denoiser:
        if host == "diffusers":
            denoiser = DiffusersDitDenoiser(twins[1], Shrink(), denoiser.noise)
        denoiser.decode = Shrink()
        adapter, terms = new_adapter(denoiser, data, **SIZES), [Term("diffusion", DiffusionLoss())]
        for name, values in (("single", {"batch": 1, "drop_text": 0.5}), ("dropped", {"batch": 4, "drop_text": 1.0})):
            stage = STAGE.with_settings(name=name, steps=4, **values)
            trainer = Trainer(denoiser, adapter, Lora(), data, stage, terms, tmp_path, held_out=frozenset({0, 3}))
            result = trainer.run()
            assert len([line for line in result.history if "diffusion" in line]) == 4
        with trainer.applied():
            pictures = preview(denoiser, trainer.learner, data, [0, 3, 6], [3, 6, 0], steps=2)
            alone = preview(denoiser, trainer.learner, data, [0], [3], steps=2)
    assert pictures.shape == (3, 3, 64, 64)
    torch.testing.assert_close(pictures[:1], alone, rtol=0, atol=1e-3)
