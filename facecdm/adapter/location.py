"""Spatial tokens: which of a face's tokens a layer's positions attend to, given the location of the face."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..bases.grid import layer_grid
from ..faces.location import FADES, REACH, aligned_coordinates

WIDTH = 0.4  # standard deviation of the attention bias, in distances between neighbouring tokens
NEAR = 3  # tokens each way that a position attends to


@dataclass(frozen=True, eq=False)
class FaceLocation:
    """Faces that are to be where `keypoints` [1 or B, 5, 2] say, in 0…1 of a picture of `size` (height, width) latents.

    Called with a layer's number of places n and its dtype: the tokens that stand where each place does [1 or B, n, m],
    scores [1 or B, n, m] to be added to those of queries and keys, and how much [1 or B, n, 1] of the place is face,
    0…1. The tokens are places of the upright face, in a square of `side`. A layer's answer is made once. `grid`
    (height, width) is that of the layer, where it is known; else the latents are halved until they are as many.
    `trust` [1 or B], 0…1, weakens the stream where the location is an estimate.
    """

    keypoints: Tensor
    size: tuple[int, int]
    side: int
    grid: tuple[int, int] | None = None
    trust: Tensor | None = None
    _made: dict[tuple, tuple[Tensor, Tensor, Tensor] | Tensor] = field(default_factory=dict, init=False)

    @property
    def tokens(self) -> int:
        return self.side**2

    def __call__(self, places: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        if (places, dtype) not in self._made:
            where = aligned_coordinates(self.keypoints, self.size, layer_grid(places, *(self.grid or self.size)))[
                ..., :2
            ]
            near = nearest(where, self.side)
            apart = 2 * REACH / self.side * WIDTH
            scores = -(where[:, :, None] - token_centres(self.side).to(where)[near]).square().sum(-1) / (2 * apart**2)
            scores = scores - scores.amax(-1, keepdim=True)  # beyond the face, too, half precision holds them
            beyond = where.abs().amax(-1, keepdim=True) - REACH
            share = (1 - beyond / FADES).clamp(0, 1)
            if self.trust is not None:
                share = share * self.trust.view(-1, 1, 1)
            self._made[places, dtype] = near, scores.to(dtype), share.to(dtype)
        return self._made[places, dtype]

    def everywhere(self, places: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The scores for all tokens, [1 or B, n, side²], −∞ for those that a place does not hear; made once, too."""
        if (places, dtype, "all") not in self._made:
            near, scores, _ = self(places, dtype)
            silent = torch.full((*scores.shape[:2], self.tokens), -torch.inf, dtype=dtype, device=scores.device)
            self._made[places, dtype, "all"] = silent.scatter(2, near, scores)
        return self._made[places, dtype, "all"]

    def part(self, rows: Tensor) -> "FaceLocation":
        """Of some rows [k] alone."""
        keypoints = self.keypoints if len(self.keypoints) == 1 else self.keypoints[rows]
        trust = self.trust if self.trust is None or len(self.trust) == 1 else self.trust[rows]
        return FaceLocation(keypoints, self.size, self.side, self.grid, trust)

    def within(self, area: tuple[int, int, int, int]) -> "FaceLocation":
        """As a part of the picture sees it: `area` is its height, width, top and left in latents."""
        height, width, top, left = area
        scale, corner, part = (
            self.keypoints.new_tensor(xy) for xy in ([self.size[1], self.size[0]], [left, top], [width, height])
        )
        return FaceLocation((self.keypoints * scale - corner) / part, (height, width), self.side, self.grid, self.trust)


@dataclass(frozen=True, eq=False)
class FaceLocations:
    """Neighbouring rows of a batch, each `FaceLocation` of as many as it has faces."""

    parts: list[FaceLocation]
    _made: dict[tuple, tuple[Tensor, Tensor, Tensor] | Tensor] = field(default_factory=dict, init=False)

    @property
    def tokens(self) -> int:
        return self.parts[0].tokens

    def __call__(self, places: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        if (places, dtype) not in self._made:
            parts = zip(*(part(places, dtype) for part in self.parts))
            self._made[places, dtype] = tuple(torch.cat(made) for made in parts)
        return self._made[places, dtype]

    def everywhere(self, places: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if (places, dtype, "all") not in self._made:
            self._made[places, dtype, "all"] = torch.cat([part.everywhere(places, dtype) for part in self.parts])
        return self._made[places, dtype, "all"]


def token_centres(side: int) -> Tensor:
    """[side², 2]: x, y of the places' middles, in half crops from the middle of the crop."""
    steps = ((torch.arange(side) + 0.5) / side * 2 - 1) * REACH
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def nearest(where: Tensor, side: int) -> Tensor:
    """Positions [B, n, 2] in `token_centres` units → the at most NEAR × NEAR tokens around each, [B, n, m] int64."""
    reach = min(NEAR, side)
    first = ((where / REACH + 1) * side / 2 - (reach - 1) / 2).floor().long().clamp(0, side - reach)
    step = torch.arange(reach, device=where.device)
    x, y = (first[..., axis, None] + step for axis in (0, 1))
    return (y[..., :, None] * side + x[..., None, :]).flatten(-2)
