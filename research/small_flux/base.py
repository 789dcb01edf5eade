"""Train the small Flux on FaceWorld's latents and captions."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facecdm.bases.noise import Flow
from facecdm.demo import data
from facecdm.demo.emphasis import FaceWeights
from facecdm.demo.train import Plan, Run
from facecdm.training.rows import Prompt

from .model import CHECKPOINT, SHIFT, build_flux, velocity

EMPTY = 0.1  # share of the pictures that are trained without a caption


@dataclass(frozen=True)
class Pictures:
    """What is trained on.

    latents   float16 [2N, C, h, w] of N pictures, then of the mirrored ones
    captions  of the N pictures
    faces     weights of the loss over positions; None: equal weights
    """

    latents: np.ndarray
    captions: list[str]
    faces: FaceWeights | None = None

    def batch(self, count: int, rng: random.Random) -> tuple[Tensor, list[str], Tensor]:
        """Latents [count, C, h, w], reworded captions, and weights [count or 1, 1, h or 1, w or 1] of the loss."""
        rows = [rng.randrange(len(self.captions)) for _ in range(count)]
        captions = ["" if rng.random() < EMPTY else data.reword(self.captions[row], rng) for row in rows]
        mirrored = [rng.random() < 0.5 for _ in rows]
        chosen = [row + len(self.captions) * flip for row, flip in zip(rows, mirrored, strict=True)]
        latents = torch.from_numpy(np.stack([self.latents[row] for row in chosen])).float()
        weights = self.faces(rows, mirrored, latents.shape[-1]) if self.faces else torch.ones(1, 1, 1, 1)
        return latents, captions, weights


def train(
    pictures: Pictures, encode: Callable[[list[str]], list[Prompt]], plan: Plan, folder: Path, compiled: bool
) -> None:
    """Train by flow matching, or resume; `encode` makes prompts of captions.

    Gradients are computed in bfloat16; weights and moving average are float32.
    """
    torch.manual_seed(plan.seed)
    flux = build_flux(encode([""])[0].states.shape[-1])
    run = Run(folder, CHECKPOINT, flux, plan, average=0.9995, half=True)
    live, flow = run.live, Flow()
    if compiled:
        live.compile()

    def loss_of(rng: random.Random) -> Tensor:
        clean, captions, weights = pictures.batch(plan.batch, rng)
        prompts = encode(captions)
        states, pooled = (torch.cat([getattr(one, name) for one in prompts]) for name in ("states", "pooled"))
        generator = torch.Generator().manual_seed(rng.getrandbits(48))
        noise = torch.randn(clean.shape, generator=generator)
        # Evenly spread times make the loss vary less between steps than independent ones.
        t = flow.time((torch.arange(plan.batch) + torch.rand(1, generator=generator)) / plan.batch, SHIFT)
        noisy = flow.noisy(clean, noise, t[:, None, None, None]).bfloat16()
        missed = velocity(live, noisy, t, states, pooled).float() - flow.target(clean, noise)
        return (missed.square() * weights).mean()

    run.train(loss_of)
