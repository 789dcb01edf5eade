"""Spatial tokens: the face tokens that each position of a layer attends to, given the location of the face."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..bases.grid import layer_grid
from ..faces.location import FADES, REACH, Crop, aligned_coordinates, crop_of, scaled

WIDTH = 0.4  # standard deviation of the attention bias, in distances between neighbouring tokens
NEAR = 3  # a position attends to at most NEAR × NEAR tokens


@dataclass(frozen=True, eq=False)
class FaceLocation:
    """A `LocationBias` for faces at known key points. The result for each layer is computed once.

    keypoints  [1 or B, 5, 2] in 0…1 of the picture
    size       (height, width) of the picture in latents
    side       tokens along a side of their grid over the aligned face
    grid       (rows, columns) of the layer, if known; else the latents are halved until they fit
    trust      [1 or B] in 0…1, weakens the stream if the location is an estimate; None: the location is known
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

    @cached_property
    def _crop(self) -> Crop:
        return crop_of(self.keypoints, self.size)

    def __call__(self, positions: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        if (positions, dtype) not in self._made:
            grid = layer_grid(positions, *(self.grid or self.size))
            at = aligned_coordinates(self.keypoints, self.size, grid, self._crop)[..., :2]
            near = nearest(at, self.side)
            width = 2 * REACH / self.side * WIDTH
            centres = token_centres(self.side, at.device).to(at)
            scores = -(at[:, :, None] - centres[near]).square().sum(-1) / (2 * width**2)
            scores = scores - scores.amax(-1, keepdim=True)  # so that half precision can hold them far from a face
            beyond = at.abs().amax(-1, keepdim=True) - REACH
            share = (1 - beyond / FADES).clamp(0, 1)
            if self.trust is not None:
                share = share * self.trust.view(-1, 1, 1)
            self._made[positions, dtype] = near, scores.to(dtype), share.to(dtype)
        return self._made[positions, dtype]

    def everywhere(self, positions: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See `LocationBias.everywhere`; also computed once."""
        if (positions, dtype, "all") not in self._made:
            near, scores, _ = self(positions, dtype)
            full = torch.full((*scores.shape[:2], self.tokens), -torch.inf, dtype=dtype, device=scores.device)
            self._made[positions, dtype, "all"] = full.scatter_(2, near, scores)
        return self._made[positions, dtype, "all"]

    def part(self, rows: Tensor) -> "FaceLocation":
        """The location for the given rows [k] of the batch."""
        keypoints = self.keypoints if len(self.keypoints) == 1 else self.keypoints[rows]
        trust = self.trust if self.trust is None or len(self.trust) == 1 else self.trust[rows]
        return FaceLocation(keypoints, self.size, self.side, self.grid, trust)

    def on(self, device: torch.device, grid: tuple[int, int] | None = None) -> "FaceLocation":
        """The location on `device`, for a layer of `grid` (rows, columns)."""
        trust = None if self.trust is None else self.trust.to(device)
        made = FaceLocation(self.keypoints.to(device), self.size, self.side, grid, trust)
        made.__dict__["_crop"] = tuple(part.to(device) for part in self._crop)  # the same for every layer
        return made

    def within(self, area: tuple[int, int, int, int]) -> "FaceLocation":
        """The location relative to a part of the picture; `area` is its height, width, top and left in latents."""
        height, width, top, left = area
        x, y = scaled(self.keypoints, self.size[1], self.size[0]).unbind(-1)
        points = torch.stack([(x - left) / width, (y - top) / height], -1)
        return FaceLocation(points, (height, width), self.side, self.grid, self.trust)


@dataclass(frozen=True, eq=False)
class FaceLocations:
    """A `LocationBias` for neighbouring rows of a batch, joined from several `FaceLocation`s."""

    parts: list[FaceLocation]
    _made: dict[tuple, tuple[Tensor, Tensor, Tensor] | Tensor] = field(default_factory=dict, init=False)

    @property
    def tokens(self) -> int:
        return self.parts[0].tokens

    def __call__(self, positions: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        if (positions, dtype) not in self._made:
            parts = zip(*(part(positions, dtype) for part in self.parts))
            self._made[positions, dtype] = tuple(torch.cat(made) for made in parts)
        return self._made[positions, dtype]

    def everywhere(self, positions: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if (positions, dtype, "all") not in self._made:
            self._made[positions, dtype, "all"] = torch.cat([part.everywhere(positions, dtype) for part in self.parts])
        return self._made[positions, dtype, "all"]


@lru_cache
def token_centres(side: int, device: torch.device | None = None) -> Tensor:
    """x, y of the tokens' centres, [side², 2], from the centre of the crop, in units of half a crop."""
    with torch.inference_mode(False):
        steps = ((torch.arange(side, device=device) + 0.5) / side * 2 - 1) * REACH
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)


def nearest(at: Tensor, side: int) -> Tensor:
    """The tokens around each position ([B, n, 2] in the units of `token_centres`): [B, n, m] int64, m ≤ NEAR²."""
    reach = min(NEAR, side)
    first = ((at / REACH + 1) * side / 2 - (reach - 1) / 2).floor().long().clamp(0, side - reach)
    step = torch.arange(reach, device=at.device)
    x, y = (first[..., axis, None] + step for axis in (0, 1))
    return (y[..., :, None] * side + x[..., None, :]).flatten(-2)
