"""Where a picture's places stand on an upright face: what five key points say of every latent."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from .align import TEMPLATE

SIZE = 112  # of the recogniser's crop
REACH = 1.4  # sides of it that the places of a face's tokens cover: hair and chin belong to them
WIDTH = 0.4  # of the distance between two tokens' places: how far each of them is heard
NEAR = 3  # tokens each way that a place hears
FADES = 0.3  # half crops beyond their reach over which a face ends
RIM = REACH + 2 * FADES


@dataclass(frozen=True, eq=False)
class FaceLocation:
    """Faces that are to be where `keypoints` [1 or B, 5, 2] say, in 0…1 of a picture of `size` (height, width) latents.

    Called with a layer's number of places n and its dtype: the tokens that stand where each place does [1 or B, n, m],
    scores [1 or B, n, m] to be added to those of queries and keys, and how much [1 or B, n, 1] of the place is face,
    0…1. The tokens are places of the upright face, in a square of `side`. A layer's answer is made once. `grid`
    (height, width) is that of the layer, where it is known; else the latents are halved until they are as many.
    """

    keypoints: Tensor
    size: tuple[int, int]
    side: int
    grid: tuple[int, int] | None = None
    _made: dict[tuple, tuple[Tensor, Tensor, Tensor] | Tensor] = field(default_factory=dict, init=False)

    @property
    def tokens(self) -> int:
        return self.side**2

    def __call__(self, places: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        if (places, dtype) not in self._made:
            where = aligned_coordinates(self.keypoints, *self.size, places, self.grid)[..., :2]
            near = nearest(where, self.side)
            apart = 2 * REACH / self.side * WIDTH
            scores = -(where[:, :, None] - token_centres(self.side).to(where)[near]).square().sum(-1) / (2 * apart**2)
            scores = scores - scores.amax(-1, keepdim=True)  # beyond the face, too, half precision holds them
            beyond = where.abs().amax(-1, keepdim=True) - REACH
            self._made[places, dtype] = near, scores.to(dtype), (1 - beyond / FADES).clamp(0, 1).to(dtype)
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
        return FaceLocation(
            self.keypoints if len(self.keypoints) == 1 else self.keypoints[rows], self.size, self.side, self.grid
        )

    def within(self, area: tuple[int, int, int, int]) -> "FaceLocation":
        """As a part of the picture sees it: `area` is its height, width, top and left in latents."""
        height, width, top, left = area
        scale, corner, part = (
            self.keypoints.new_tensor(xy) for xy in ([self.size[1], self.size[0]], [left, top], [width, height])
        )
        return FaceLocation((self.keypoints * scale - corner) / part, (height, width), self.side, self.grid)


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


def aligned_coordinates(
    keypoints: Tensor, height: int, width: int, places: int, grid: tuple[int, int] | None = None
) -> Tensor:
    """[B, places, 3]: x, y (and 1) of a layer's places on the upright face, in half crops from its middle.

    The picture has height × width latents, which the layers halve, rounding up, unless `grid` says what the layer has.
    Far beyond the face it stays at the rim.
    """
    h, w = grid or (height, width)
    while h * w > places:
        h, w = -(-h // 2), -(-w // 2)
    to_crop = from_crop(keypoints * keypoints.new_tensor([width, height]))
    y, x = torch.meshgrid(
        (torch.arange(h, device=keypoints.device) + 0.5) * height / h,
        (torch.arange(w, device=keypoints.device) + 0.5) * width / w,
        indexing="ij",
    )
    here = torch.stack([x, y], -1).view(1, -1, 2) - to_crop[:, None, :, 2]
    crop = here @ torch.linalg.inv(to_crop[:, :, :2]).transpose(1, 2)
    half = SIZE / 2
    return F.pad(((crop - half + 0.5) / half).clamp(-RIM, RIM), (0, 1), value=1.0)


def centre_crop(keypoints: Tensor, aspects: Tensor, height: int, width: int) -> Tensor:
    """[N, 5, 2] in 0…1 of a canvas → in 0…1 of a picture of height × width that its middle fills.

    So ComfyUI fits a ControlNet's picture. `aspects` [N]: each canvas' width over its height.
    """
    wider = aspects.to(keypoints) * height / width
    scale = torch.stack([wider.clamp(min=1), (1 / wider).clamp(min=1)], -1)[:, None]
    return (keypoints - 0.5) * scale + 0.5


def from_crop(keypoints: Tensor) -> Tensor:
    """[B, 2, 3] matrices from pixels of the crop to pixels of the picture; key points [B, 5, 2] in pixels.

    Umeyama 1991 in two dimensions, where the least squares of a similarity are one division of complex numbers.
    It is fitted from picture to crop, as InsightFace has it, and turned round.
    """
    x, y = torch.view_as_complex(keypoints.contiguous()), keypoints.new_tensor(TEMPLATE)
    y = torch.view_as_complex(y).expand_as(x)
    middle_x, middle_y = x.mean(-1, keepdim=True), y.mean(-1, keepdim=True)
    x, y = x - middle_x, y - middle_y
    turn = (x.conj() * y).sum(-1) / x.abs().square().sum(-1).clamp(min=1e-6)
    back = turn.conj() / turn.abs().square().clamp(min=1e-12)  # 1 / turn, finite where all points are one
    shift = middle_x[:, 0] - back * middle_y[:, 0]
    rows = torch.stack([back.real, -back.imag, shift.real, back.imag, back.real, shift.imag], -1)
    return rows.view(-1, 2, 3)
