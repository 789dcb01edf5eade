"""A training on a small DiT: a data set of random numbers, and the denoisers of both hosts on shared weights."""

from contextlib import contextmanager

import torch
from lab import PEOPLE, PHOTOS, Shrink, TinySource
from tensors import close

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


@contextmanager
def denoisers(twins):
    """(ComfyUI's, diffusers'), on shared weights and the same noise levels."""
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    model, transformer = twins
    with ComfyDitDenoiser(model) as comfy:
        yield comfy, DiffusersDitDenoiser(transformer, Shrink(), comfy.noise)


def observed_and_gradients(denoiser, adapter, repeat: bool, predict) -> tuple[list, dict]:
    """The queries and keys of each block, and the gradients of the adapter, of `predict` with a `watch`.

    repeat  whether the backward pass computes the blocks again
    """
    adapter.zero_grad()
    observed: list = []
    denoiser.checkpoint(repeat)
    out = predict(lambda index, q, k: observed.extend((q, k)))
    (out.square().mean() + sum(value.square().mean() for value in observed)).backward()
    denoiser.checkpoint(False)
    return observed, {name: value.grad for name, value in adapter.named_parameters() if value.grad is not None}


def check_all_close(found: list[tuple[list, dict]]) -> None:
    """Assert that what `observed_and_gradients` found agrees, and that no gradient is zero."""
    first, *others = ({**gradients, **dict(enumerate(observed))} for observed, gradients in found)
    for other in others:
        for name, value in first.items():
            assert value.any(), name
            close(other[name], value, 1e-3)
