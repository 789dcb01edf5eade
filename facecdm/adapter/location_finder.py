"""The face location that an adapter finds by itself during sampling, the same in every host."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..faces.location import SIZE, template
from .location import FaceLocation
from .model import TripletAdapter

HIGHEST = 15.0  # noise level σ above which predictions do not tell where a face will be; SD1.5 begins at 14.6


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one step of a sampling predicted.

    clean  clean latents [B, C, h, w], without guidance
    sigma  the step's noise level σ [1 or B], relative to the signal
    """

    clean: Tensor
    sigma: Tensor

    def part(self, rows: slice | Tensor) -> "Prediction":
        """The prediction for some rows of the batch."""
        return Prediction(self.clean[rows], self.sigma if len(self.sigma) == 1 else self.sigma[rows])


class LocationFinder:
    """Estimates one person's face location for each step from the step before, without a host sync.

    adapter  has a location head
    mask     [H, W] in 0…1, the person's region mask: the face is searched for in it
    """

    def __init__(self, adapter: TripletAdapter, mask: Tensor | None = None):
        self._adapter, self._mask = adapter, mask
        self._side = adapter.config.grid_side
        self._regions: dict[tuple, Tensor] = {}
        self._unknown: dict[tuple, FaceLocation] = {}

    def __call__(self, before: Prediction | None, size: tuple[int, int], device: torch.device) -> FaceLocation:
        """The location for a step on latents of `size` (height, width).

        `before` is the step before. The trust is 0, so that the face stream has no effect, without one, if its
        latents have another size, and above `HIGHEST`.
        """
        if before is None or before.clean.shape[-2:] != size or _known_to_be_high(before.sigma):
            return self._anywhere(size, device)
        points, trust = self._adapter.locate(before.clean, before.sigma, self._region(size, before.clean.device))
        return FaceLocation(points, size, self._side, trust=trust * (before.sigma <= HIGHEST))

    def _anywhere(self, size: tuple[int, int], device: torch.device) -> FaceLocation:
        """A location without trust, for all steps that have none."""
        if (size, device) not in self._unknown:
            points = template(device, torch.float32)[None] / SIZE
            self._unknown[size, device] = FaceLocation(points, size, self._side, trust=torch.zeros(1, device=device))
        return self._unknown[size, device]

    def _region(self, size: tuple[int, int], device: torch.device) -> Tensor | None:
        if self._mask is None:
            return None
        if (size, device) not in self._regions:
            self._regions[size, device] = F.interpolate(self._mask[None, None].float(), size, mode="area").to(device)
        return self._regions[size, device]


def _known_to_be_high(sigma: Tensor) -> bool:
    """Whether all noise levels are above `HIGHEST`, if this can be read without waiting for a GPU."""
    return sigma.device.type == "cpu" and bool((sigma > HIGHEST).all())
