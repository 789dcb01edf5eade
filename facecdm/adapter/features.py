"""What a stream reads of its pictures, before a projector makes tokens of it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Features:
    """Of one or several reference pictures, float32 on the CPU.

    embedding  [R, D]      of a recogniser (unit or raw, as the adapter wants it) or a vision tower's pooled one
    states     [R, N, W]   hidden states of a vision tower, or several of them
    shortcut               how much of what the states say is added (FaceID PlusV2)

    A native adapter takes plain tensors in its place: unit embeddings for the face, states for the image.
    """

    embedding: Tensor | None = None
    states: Tensor | tuple[Tensor, ...] | None = None
    shortcut: float = 1.0

    @property
    def count(self) -> int:
        """R."""
        return len(next(part for part in self._parts() if part is not None))

    def mean(self, weights: Tensor | None = None, unit: bool = False) -> "Features":
        """One reference: the mean of all, weighted by `weights` [R]; `unit` brings the embedding to length 1."""
        share = torch.ones(self.count) if weights is None else weights
        mixed = self._each(lambda x: torch.einsum("r,r...->...", share.to(x) / share.sum(), x)[None])
        if unit and mixed.embedding is not None:
            mixed = Features(F.normalize(mixed.embedding, dim=-1), mixed.states, mixed.shortcut)
        return mixed

    def repeated(self, count: int) -> "Features":
        """`count` references: the first ones, or all of them and the last one again and again."""
        return self._each(
            lambda x: torch.cat([x, x[-1:].expand(count - len(x), *x.shape[1:])]) if len(x) < count else x[:count]
        )

    def nothing(self, states: Tensor | tuple[Tensor, ...] | None = None) -> "Features":
        """What stands for no picture: a zero embedding, and the given states of an empty picture, as many of them."""
        empty = Features(None if self.embedding is None else torch.zeros_like(self.embedding), states, self.shortcut)
        return empty.repeated(self.count)

    def noisy(self, amount: float, shown: "Features") -> "Features":
        """With even noise of 0 … `amount`, the same for the same `shown`, as packs for InstantID and PuLID offer it for
        the negative prompt (cubiq/ComfyUI_InstantID).
        """
        told = next(part for part in shown._parts() if part is not None)
        generator = torch.Generator().manual_seed(int(told.sum()) % 1_000_000_007)
        return self._each(lambda x: x + amount * torch.rand(x.shape, generator=generator))

    def _parts(self) -> tuple:
        return (self.embedding, *(self.states if isinstance(self.states, tuple) else (self.states,)))

    def _each(self, change) -> "Features":
        embedding, *states = (None if part is None else change(part) for part in self._parts())
        return Features(embedding, tuple(states) if isinstance(self.states, tuple) else states[0], self.shortcut)
