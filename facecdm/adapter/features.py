"""Features of reference pictures, from which a projector makes tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one or several reference pictures, float32 on the CPU.

    embedding  [R, D]     from a recogniser (normed or raw, as the adapter needs it) or a vision tower (pooled)
    states     [R, N, W]  hidden states of a vision tower, or a tuple of several such tensors
    shortcut              weight of the states' part of the tokens (FaceID PlusV2)

    FaceCDM's own adapters take plain tensors instead: unit embeddings for the face, states for the image.
    """

    embedding: Tensor | None = None
    states: Tensor | tuple[Tensor, ...] | None = None
    shortcut: float = 1.0

    @property
    def count(self) -> int:
        """Number of references R."""
        return len(next(part for part in self._parts() if part is not None))

    def mean(self, weights: Tensor | None = None, unit: bool = False) -> "Features":
        """Average all references into one, weighted by `weights` [R]; `unit` scales the embedding to length 1."""
        share = torch.ones(self.count) if weights is None else weights
        mixed = self._each(lambda x: torch.einsum("r,r...->...", share.to(x) / share.sum(), x)[None])
        if unit and mixed.embedding is not None:
            mixed = Features(F.normalize(mixed.embedding, dim=-1), mixed.states, mixed.shortcut)
        return mixed

    def repeated(self, count: int) -> "Features":
        """Cut to the first `count` references, or repeat the last reference until there are `count`."""
        return self._each(
            lambda x: torch.cat([x, x[-1:].expand(count - len(x), *x.shape[1:])]) if len(x) < count else x[:count]
        )

    def empty(self, states: Tensor | tuple[Tensor, ...] | None = None) -> "Features":
        """Features of an absent picture: a zero embedding and the given states, for the same number of references."""
        empty = Features(None if self.embedding is None else torch.zeros_like(self.embedding), states, self.shortcut)
        return empty.repeated(self.count)

    def with_noise(self, amount: float, shown: "Features") -> "Features":
        """Add uniform noise in 0 … `amount`. Equal features `shown` of the person give equal noise.

        Node packs for InstantID and PuLID have this option for the negative prompt (cubiq/ComfyUI_InstantID).
        """
        first = next(part for part in shown._parts() if part is not None)
        generator = torch.Generator().manual_seed(int(first.sum()) % 1_000_000_007)
        return self._each(lambda x: x + amount * torch.rand(x.shape, generator=generator))

    def _parts(self) -> tuple:
        return (self.embedding, *(self.states if isinstance(self.states, tuple) else (self.states,)))

    def _each(self, change) -> "Features":
        embedding, *states = (None if part is None else change(part) for part in self._parts())
        return Features(embedding, tuple(states) if isinstance(self.states, tuple) else states[0], self.shortcut)
