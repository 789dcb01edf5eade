"""The location of a face in a picture, from five key points: the map between the picture and the aligned face."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .align import TEMPLATE

SIZE = 112  # side in pixels of the recogniser's crop
REACH = 1.4  # half side of the square that the face tokens cover (with hair and chin), in half crops
FADES = 0.3  # width of the face's fade-out beyond REACH, in half crops
RIM = REACH + 2 * FADES


def aligned_coordinates(
    keypoints: Tensor, size: tuple[int, int], grid: tuple[int, int], crop: "Crop | None" = None
) -> Tensor:
    """Homogeneous coordinates (x, y, 1) of a layer's positions on the aligned face, [B, rows × columns, 3].

    The unit is half a crop, measured from its centre. Coordinates are clamped to ±RIM.

    keypoints  [B, 5, 2] in 0…1 of the picture
    size       (height, width) of the picture in latents
    grid       (rows, columns) of the layer
    crop       `crop_of` these key points, if it is computed already
    """
    (height, width), (h, w) = size, grid
    corner, inverse = crop or crop_of(keypoints, size)
    here = _positions(height, width, h, w, keypoints.device) - corner
    half = SIZE / 2
    return F.pad(((here @ inverse - half + 0.5) / half).clamp(-RIM, RIM), (0, 1), value=1.0)


@lru_cache
def _positions(height: int, width: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """The centres (x, y) of a layer's positions [1, rows × columns, 2], in latents of the picture."""
    with torch.inference_mode(False):
        y, x = torch.meshgrid(
            (torch.arange(rows, device=device) + 0.5) * height / rows,
            (torch.arange(columns, device=device) + 0.5) * width / columns,
            indexing="ij",
        )
        return torch.stack([x, y], -1).view(1, -1, 2)


Crop = tuple[Tensor, Tensor]


def crop_of(keypoints: Tensor, size: tuple[int, int]) -> Crop:
    """The corner of the recogniser's crop [B, 1, 2] in latents, and the matrix from there to crop pixels [B, 2, 2].

    See `aligned_coordinates` for the arguments.
    """
    matrix = from_crop(scaled(keypoints, size[1], size[0]))
    inverse = torch.linalg.inv_ex(matrix[:, :, :2])[0]  # `inv` would wait for the GPU
    return matrix[:, None, :, 2], inverse.transpose(1, 2)


def scaled(points: Tensor, x: float, y: float) -> Tensor:
    """Points [..., 2] with their coordinates multiplied by `x` and `y`, without a tensor from the host."""
    return torch.stack([points[..., 0] * x, points[..., 1] * y], -1)


def centre_crop(keypoints: Tensor, aspects: Tensor, height: int, width: int) -> Tensor:
    """Convert key points [N, 5, 2] from 0…1 of a canvas to 0…1 of its centre crop with the aspect of height × width.

    ComfyUI crops a ControlNet's picture in the same way. `aspects` [N]: width over height of each canvas.
    """
    wider = aspects.to(keypoints) * height / width
    scale = torch.stack([wider.clamp(min=1), (1 / wider).clamp(min=1)], -1)[:, None]
    return (keypoints - 0.5) * scale + 0.5


def from_crop(keypoints: Tensor) -> Tensor:
    """Matrices [B, 2, 3] from crop pixels to picture pixels, for key points [B, 5, 2] in pixels.

    Umeyama 1991: in two dimensions the least-squares similarity is one division of complex numbers. It is fitted from
    picture to crop, as in InsightFace, and inverted.
    """
    x = torch.view_as_complex(keypoints.contiguous())
    y = torch.view_as_complex(template(keypoints.device, keypoints.dtype)).expand_as(x)
    middle_x, middle_y = x.mean(-1, keepdim=True), y.mean(-1, keepdim=True)
    x, y = x - middle_x, y - middle_y
    turn = (x.conj() * y).sum(-1) / x.abs().square().sum(-1).clamp(min=1e-6)
    back = turn.conj() / turn.abs().square().clamp(min=1e-12)  # 1 / turn, finite where all points coincide
    shift = middle_x[:, 0] - back * middle_y[:, 0]
    rows = torch.stack([back.real, -back.imag, shift.real, back.imag, back.real, shift.imag], -1)
    return rows.view(-1, 2, 3)


@lru_cache
def template(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The recogniser's key points [5, 2] in crop pixels; kept, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        return torch.tensor(TEMPLATE, dtype=dtype, device=device)
