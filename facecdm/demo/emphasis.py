"""What the U-Net's training emphasises: noise levels at which a face takes shape, and positions in the face."""

import numpy as np
import torch
from torch import Tensor

from ..pose.layout import FIVE_SIZE
from .poses import KeyPoints
from .schedule import STEPS

MIDDLE, MIDDLE_SHARE = (250, 850), 0.6  # this share of a batch is from these noise levels, the rest is even
FACE_WEIGHT = 4.0  # weight of a position in the middle of a face, relative to one far from it


def noise_levels(count: int, rng: torch.Generator) -> Tensor:
    """Sample int64 [count] in 0 … 999.

    They are evenly spread over a distribution that emphasises MIDDLE, which makes the loss vary less between steps than
    independent levels.
    """
    share = (torch.arange(count) + torch.rand(1, generator=rng)) / count
    low, high = (level / STEPS for level in MIDDLE)
    even = 1 - MIDDLE_SHARE
    levels = np.interp(share, [0, even * low, even * high + MIDDLE_SHARE, 1], [0, low, high, 1])
    return (torch.from_numpy(levels) * STEPS).long().clamp(max=STEPS - 1)


class FaceWeights:
    """Weights of the loss over the latents' positions: FACE_WEIGHT in the middle of the face, falling like a Gaussian.

    count   number of pictures; those without key points get equal weights
    """

    def __init__(self, found: KeyPoints, count: int):
        five = torch.from_numpy(found.points[:, :FIVE_SIZE]).float()
        eyes, mouth = five[:, :2].mean(1), five[:, 3:].mean(1)
        self._centre, self._spread = torch.full((count, 2), torch.nan), torch.ones(count)
        self._centre[found.rows] = five.mean(1)
        self._spread[found.rows] = (eyes - mouth).norm(dim=1).clamp(min=1e-3)

    def __call__(self, rows: list[int], mirrored: list[bool], side: int) -> Tensor:
        """float32 [B, 1, side, side], 1 on average over each picture."""
        x, y = self._centre[rows].unbind(1)
        x = torch.where(torch.tensor(mirrored), 1 - x, x)
        grid = (torch.arange(side) + 0.5) / side
        square = (grid[None, None, :] - x[:, None, None]) ** 2 + (grid[None, :, None] - y[:, None, None]) ** 2
        bump = torch.exp(-0.5 * square / self._spread[rows, None, None] ** 2).nan_to_num(0.0)
        weights = 1 + (FACE_WEIGHT - 1) * bump
        return (weights / weights.mean((1, 2), keepdim=True))[:, None]
