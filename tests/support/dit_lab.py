"""A training on a small DiT: a data set of random numbers, and the denoisers of both hosts on shared weights."""

import torch
from flux_twins import make_twins
from lab import PEOPLE, PHOTOS, Shrink, TinySource

from facecdm.hosts.diffusers.dit_denoiser import DiffusersDitDenoiser
from facecdm.training.rows import Prompt

CONTEXT, POOLED, LENGTHS = 40, 24, (7, 5)


class DitSource(TinySource):
    """TinySource, with the latents and prompts of a DiT; prompts have two lengths."""

    def __init__(self):
        super().__init__()
        rng, count = torch.Generator().manual_seed(5), PEOPLE * PHOTOS
        self.latents = [torch.randn(16, 8, 8 if i < 12 else 4, generator=rng) for i in range(count)]
        self.lengths = torch.tensor([LENGTHS[i % 2] for i in range(count)])
        self.texts = torch.randn(count, max(LENGTHS), CONTEXT, generator=rng)
        self.texts[torch.arange(max(LENGTHS)) >= self.lengths[:, None]] = 0
        self.pooled = torch.randn(count, POOLED, generator=rng)
        empty = torch.randn(1, 5, CONTEXT, generator=rng)
        self.empty_prompt = Prompt(empty, torch.zeros(1, POOLED), lengths=torch.tensor([5]))

    def load(self, indices):
        rows = super().load(indices)
        prompt = Prompt(self.texts[indices], self.pooled[indices], lengths=self.lengths[indices])
        return type(rows)(**vars(rows) | {"prompt": prompt})


def denoisers(twins=None):
    """(ComfyUI's, diffusers'), on shared weights and the same noise levels."""
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    model, transformer = twins or make_twins(CONTEXT)
    comfy = ComfyDitDenoiser(model)
    return comfy, DiffusersDitDenoiser(transformer, Shrink(), comfy.noise)
