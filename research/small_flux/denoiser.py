"""The small Flux as a `Denoiser`, for the training of adapters and for sampling."""

from pathlib import Path

import torch
from torch import Tensor, nn

from facecdm.bases.noise import Flow
from facecdm.demo.autoencoder import build_autoencoder
from facecdm.demo.weights import DemoWeights
from facecdm.hosts.diffusers.dit_denoiser import DiffusersDitDenoiser
from facecdm.training.randomness import STEPS

from .model import SHIFT, trained


class Decoder(nn.Module):
    """The demo's decoder: latents → pixels in −1…1."""

    def __init__(self, demo: DemoWeights):
        super().__init__()
        self.autoencoder = build_autoencoder(demo.sizes)
        self.autoencoder.load_state_dict({name: value.float() for name, value in demo.vae.items()})

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


class SmallFlux(DiffusersDitDenoiser):
    """A Flux that reads no guidance scale and has no fixed one: it is sampled with classifier-free guidance."""

    def __init__(self, flux: nn.Module, demo: DemoWeights):
        super().__init__(flux, Decoder(demo), Flow().time(torch.arange(1, STEPS + 1) / STEPS, SHIFT))
        self.distilled = False


def open_denoiser(run: Path, demo: DemoWeights) -> SmallFlux:
    """The model that was trained in `run`, with weights in bf16."""
    return SmallFlux(trained(run, demo.sizes.clip.width).bfloat16(), demo)
