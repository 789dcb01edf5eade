"""The small Flux of research.small_flux: what it trains is what adapters are trained and sampled on."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from facecdm.demo import weights
from facecdm.demo.train import Plan
from facecdm.training.rows import Prompt
from research.ablation.__main__ import open_base
from research.small_flux.base import Pictures, train
from research.small_flux.encoders import TEXT
from research.small_flux.model import CHANNELS, GRID, trained, velocity

CAPTIONS = ["a young man, short brown hair, smiling, red striped shirt, plain blue background", "an old woman"]
SIZES = weights.read_sizes()


@pytest.fixture(scope="module")
def base(tmp_path_factory, comfyui):
    """The base model of the ablation, after two steps, of which the last is resumed."""
    run, demo = tmp_path_factory.mktemp("flux"), weights.read()
    numbers = torch.randn(4, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(0))
    pictures = Pictures(numbers.numpy().astype(np.float16), CAPTIONS)
    width = demo.sizes.clip.width

    def encode(captions: list[str]) -> list[Prompt]:
        return [Prompt(torch.full((1, TEXT, width), len(one) / 99), torch.ones(1, width)) for one in captions]

    for steps in (1, 2):
        train(pictures, encode, Plan(steps, 2, 1e-2, warmup=1), run, compiled=False)
    return run, open_base(Namespace(comfyui=comfyui, small_flux=run), demo, "cpu")


def test_a_run_resumes_and_logs(base):
    lines = [json.loads(line) for line in (Path(base[0]) / "flux.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and all(line["loss"] > 0 for line in lines)


@torch.no_grad()
def test_adapters_are_trained_on_the_velocity_that_was_learnt(base):
    run, made = base
    denoiser, encoders = made.denoiser, made.encoders
    assert sum(value.numel() for value in denoiser.network.parameters()) == pytest.approx(10e6, rel=0.05)
    assert encoders.dit and encoders.pooled and encoders.step == 2 * SIZES.downscale and not denoiser.distilled
    prompts = encoders.text(CAPTIONS)
    prompt = Prompt(*(torch.cat([getattr(one, name) for one in prompts]) for name in ("states", "pooled")))
    assert prompt.states.shape == (2, TEXT, denoiser.layer_map.context) and prompt.pooled.std(0).any()
    t = torch.tensor([299, 799])
    latents = torch.randn(2, CHANNELS, GRID, GRID, generator=torch.Generator().manual_seed(1)).bfloat16()
    flux = trained(run, denoiser.layer_map.context).bfloat16()
    expected = velocity(flux, latents, denoiser.noise[t], prompt.states, prompt.pooled)
    assert expected.any() and torch.equal(denoiser.predict(latents, t, prompt), expected.float())
    assert denoiser.noise[499] == pytest.approx(1.6487 / 2.6487, abs=1e-3), "the shift of Flux.1 for 256 tokens"
    assert denoiser.decode(latents.float()).shape == (2, 3, SIZES.image_size, SIZES.image_size)
