"""The interface of a base model's encoders, for every host."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..rows import Prompt


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of each encoder's weights and settings; equal hashes mean equal results.

    vision   "" without a vision tower
    """

    latents: str
    text: str
    vision: str = ""


class Encoders(Protocol):
    """The frozen encoders of one base model.

    resolution   the base model's resolution, in pixels
    step         the sides of pictures are multiples of it
    large        whether prompts need SDXL's sizes
    dit          whether the base model is a DiT, which reads each prompt at its own length
    pooled       whether the DiT reads pooled states of the prompts
    """

    fingerprints: Fingerprints
    resolution: int
    step: int
    large: bool
    dit: bool
    pooled: bool

    def latents(self, pixels: Tensor) -> Tensor:
        """[B, H, W, 3] float32 in 0…1 → [B, C, h, w], scaled for the U-Net: the mean of the encoder's distribution."""

    def text(self, captions: list[str]) -> list[Prompt]:
        """One Prompt of one row for each caption; lengths may differ."""

    def vision(self, pictures: list[np.ndarray]) -> Tensor:
        """uint8 [H, W, 3] RGB each, of any size → penultimate states [B, N, V]; only called with a vision encoder."""


def weights_fingerprint(tensors: Iterable[tuple[str, Tensor]], *settings: object) -> str:
    """sha256 of named weights, their types, and the settings that affect the result."""
    total = hashlib.sha256(repr(settings).encode())
    for name, tensor in tensors:
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def as_batch(pixels: list[np.ndarray]) -> Tensor:
    """uint8 pictures of one size → [B, H, W, 3] float32 in 0…1."""
    return torch.from_numpy(np.stack(pixels)).float() / 255
