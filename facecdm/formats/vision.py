"""The interface of vision towers for recipes. Each host has its own towers (hosts/comfy/{vision,eva}.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..faces.value import Faces


@dataclass(frozen=True, eq=False)
class VisionOutput:
    """A tower's output for R pictures, float32 on the CPU.

    pooled  [R, C]     pooled embeddings; [R, N, W] from core's SigLIP towers, which do not pool
    states  [R, N, W]  penultimate hidden states
    last    [R, N, W]  last hidden states; normalised in SigLIP towers
    """

    pooled: Tensor
    states: Tensor
    last: Tensor | None = None

    def mean(self) -> "VisionOutput":
        """The mean over the pictures, as one picture's output."""
        parts = (self.pooled, self.states, self.last)
        return VisionOutput(*(None if part is None else part.mean(0, keepdim=True) for part in parts))

    @classmethod
    def joined(cls, outputs: Sequence["VisionOutput"]) -> "VisionOutput":
        """The outputs for all pictures of several batches."""
        parts = zip(*((one.pooled, one.states, one.last) for one in outputs))
        return cls(*(None if part[0] is None else torch.cat(part) for part in parts))


class VisionTower(Protocol):
    """A CLIP image encoder."""

    def encode(self, pictures: Tensor) -> VisionOutput:
        """Pictures [R, H, W, 3] in 0…1, scaled and cut to the tower's square. Raises FaceCDMError for NaN."""

    def encode_empty(self) -> VisionOutput:
        """Encode one picture whose *normalised* pixels are zero, as in the adapters' training without a picture."""


@runtime_checkable
class FaceTower(Protocol):
    """PuLID's EVA02-CLIP, which encodes faces and prepares them itself."""

    def encode_faces(self, faces: Faces, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Embeddings [faces, 768] and five hidden states [faces, 577, 1024], float32 on the CPU.

        Raises FaceCDMError if the faces were not found in `pictures` [B, H, W, 3].
        """


@runtime_checkable
class FaceStatesTower(VisionTower, Protocol):
    """A CLIP image encoder with CurricularFace beside it, for UniPortrait."""

    def face_states(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Aligned faces [R, H, W, 3] → identity [R, 49, 512] and structure [R, 256, 448], float32 on the CPU."""
