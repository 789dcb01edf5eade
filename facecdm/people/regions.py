"""Regions of people: soft masks that sum to at most 1, and to exactly 1 where two people touch."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceCDMError
from ..faces.value import Faces

SHAPES = ("box", "ellipse")
FILLS = ("regions only", "whole picture")
# Margins of a person's region around the box of the face, in faces: left, above, right, below.
_MARGINS = (0.7, 0.7, 0.7, 1.6)


@dataclass(frozen=True, eq=False)
class Regions:
    """masks [N, H, W] float32 in 0 … 1, one for each person."""

    masks: Tensor

    @property
    def background(self) -> Tensor:
        """[H, W]: 1 minus the sum of the masks."""
        return (1 - self.masks.sum(0)).clamp(0, 1)

    def __len__(self) -> int:
        return len(self.masks)


def parse_boxes(text: str) -> Tensor:
    """Read boxes [N, 4] x0, y0, x1, y1 in shares of the picture (0 … 1), one line per person. Raises FaceCDMError."""
    boxes = []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), 1):
        try:
            box = [float(part) for part in re.split(r"[\s,;]+", line.strip())]
        except ValueError:
            box = []
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise FaceCDMError(
                f"boxes, line {number} ({line.strip()[:100]!r}): write four numbers between 0 and 1 for left, "
                "top, right and bottom as shares of the picture, as in: 0 0 0.5 1"
            )
        boxes.append(box)
    if not boxes:
        raise FaceCDMError("boxes is empty: write a line for each person, or connect faces or a layout picture")
    return torch.tensor(boxes)


def boxes_of_faces(faces: Faces) -> Tensor:
    """Boxes [N, 4] as in `parse_boxes`: head and shoulders of each face, in the faces' order, cut at the edge.

    Raises FaceCDMError if the faces are from different pictures, which have no common layout.
    """
    faces = faces.required("faces")
    if len({(face.image_size, face.image_index) for face in faces}) > 1:
        raise FaceCDMError(
            "faces are from several pictures: for the layout give Detect & Embed Faces one picture "
            "that shows all people, with choice 'all'"
        )
    boxes = torch.stack([face.box for face in faces])
    height, width = faces[0].image_size
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    grown = boxes + size * torch.tensor(_MARGINS) * torch.tensor([-1, -1, 1, 1])
    return (grown / torch.tensor([width, height, width, height])).clamp(0, 1)


def regions_of_boxes(
    boxes: Tensor,
    height: int,
    width: int,
    *,
    shape: str = "box",
    grow: float = 1.0,
    softness: float = 0.1,
    fill: str = "regions only",
) -> Regions:
    """Make a region around each of `boxes` [N, 4] (shares of the picture).

    The distance d from a person is 0 at the centre of the box and 1 at its edge (times `grow`). A pixel belongs to
    the nearest person. Within `softness` of the border between two people, both share it. Beyond d = 1 the region fades
    out until d = 1 + `softness`, unless `fill` is "whole picture".
    """
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6) / 2 * grow
    dx = ((x[None] - middle[:, :1]) / half[:, :1]).abs()[:, None, :]
    dy = ((y[None] - middle[:, 1:]) / half[:, 1:]).abs()[:, :, None]
    distance = torch.maximum(dx, dy) if shape == "box" else (dx**2 + dy**2).sqrt()
    soft = max(softness, 1e-6)
    nearest = distance.min(0, keepdim=True).values
    share = _smooth(1 - (distance - nearest) / soft)
    masks = share / share.sum(0, keepdim=True)
    if fill == "regions only":
        masks = masks * _smooth((1 + soft - nearest) / soft)
    return Regions(masks)


def regions_of_layout(layout: Tensor, height: int, width: int, softness: float = 0.1) -> Regions:
    """Make a region for each colour of a painted `layout` [H, W, 3] in 0 … 1, from left to right; black is background.

    The seven colours are combinations of full red, green and blue. Areas under a thousandth of the picture are ignored.
    softness: width of the edges, relative to the shorter side. Raises FaceCDMError if everything is black.
    """
    codes = ((layout[..., :3] > 0.5).long() * torch.tensor([1, 2, 4])).sum(-1)
    spots = [(codes == code).float() for code in range(1, 8)]
    spots = [spot for spot in spots if spot.mean() >= 1e-3]
    if not spots:
        raise FaceCDMError(
            "the layout picture is black: paint each person's region in red, green, blue, yellow, cyan, "
            "magenta or white, and leave the rest black"
        )
    columns = torch.arange(codes.shape[1]).float()
    spots.sort(key=lambda spot: float((spot.sum(0) * columns).sum() / spot.sum()))
    masks = F.interpolate(torch.stack(spots)[None], (height, width), mode="area")
    return Regions(_blur(masks, round(softness * min(height, width)))[0])


def _smooth(t: Tensor) -> Tensor:
    """Smooth step from 0 (t ≤ 0) to 1 (t ≥ 1)."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _blur(masks: Tensor, size: int) -> Tensor:
    """Blur by a mean over a square, twice. It is linear, so masks that sum to 1 still do, even at the edges."""
    for _ in range(2):
        if size > 1:
            before, after = (size - 1) // 2, size // 2
            masks = F.avg_pool2d(F.pad(masks, (before, after, before, after), mode="replicate"), size, 1)
    return masks
