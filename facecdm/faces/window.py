"""Windows around faces: parts of a picture that are cut out, sampled at another size, and put back."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STEP = 8  # pixels of a latent


@dataclass(frozen=True)
class Window:
    """A part of a picture.

    x0, y0, x1, y1  pixels: x0 ≤ x < x1, y0 ≤ y < y1
    height, width   of the whole picture in pixels
    size            (height, width) in pixels at which the part is sampled
    """

    x0: int
    y0: int
    x1: int
    y1: int
    height: int
    width: int
    size: tuple[int, int]

    def cut(self, picture: Tensor) -> Tensor:
        """Cut the window out of the whole picture [..., H, W] of any resolution, without resizing."""
        down, right = picture.shape[-2] / self.height, picture.shape[-1] / self.width
        rows, columns = (
            slice(int(a * scale), max(round(b * scale), int(a * scale) + 1))
            for a, b, scale in ((self.y0, self.y1, down), (self.x0, self.x1, right))
        )
        return picture[..., rows, columns]

    def resampled(self, picture: Tensor, size: tuple[int, int]) -> Tensor:
        """Resample the window of [..., H, W] to `size`: linear, and subpixel-exact because latents are coarse."""
        y, x = (
            ((torch.arange(count, device=picture.device) + 0.5) / count * (last - first) + first) / whole * 2 - 1
            for count, first, last, whole in zip(
                size, (self.y0, self.x0), (self.y1, self.x1), (self.height, self.width)
            )
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        flat = picture.float().reshape(1, -1, *picture.shape[-2:])
        cut = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return cut.view(*picture.shape[:-2], *size).to(picture.dtype)

    def relative(self, points: Tensor) -> Tensor:
        """Convert points [..., 2] from picture pixels to 0 … 1 of the window."""
        corner = points.new_tensor([self.x0, self.y0])
        return (points - corner) / points.new_tensor([self.x1 - self.x0, self.y1 - self.y0])

    def enlarged(self, image: Tensor) -> Tensor:
        """Resize the window of an IMAGE [H, W, C] to the sampling size, [1, h, w, C]."""
        return resize(self.cut(image.movedim(-1, 0))[None], self.size).movedim(1, -1)

    def put_back(self, image: Tensor, detail: Tensor, mask: Tensor) -> Tensor:
        """A copy of IMAGE [H, W, C] with `detail` [h, w, C] blended into the window by `mask` [H, W]."""
        own = resize(detail.movedim(-1, 0)[None], (self.y1 - self.y0, self.x1 - self.x0))[0].movedim(0, -1)
        weight = mask[self.y0 : self.y1, self.x0 : self.x1, None]
        result = image.clone()
        part = result[self.y0 : self.y1, self.x0 : self.x1]
        # The picture is bit-equal where the mask is 0.
        colours = min(part.shape[-1], own.shape[-1])  # alpha is unchanged
        part, own = part[..., :colours], own[..., :colours]
        part.copy_(torch.where(weight > 0, part + (own - part) * weight, part))
        return result


def window_around(box: Tensor, height: int, width: int, padding: float, guide_size: int, step: int = STEP) -> Window:
    """Square window around a face's `box` [4] in a picture of height × width. `padding` per side is in face sizes.

    It is moved into the picture, and cut if it is larger. Its longer side is sampled at `guide_size`, or at its
    own size if that is larger, so a face is never shrunk. The sides are multiples of `step`.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(x1 - x0, y1 - y0, 1.0) * (1 + 2 * padding)
    left, wide = _within((x0 + x1) / 2, side, width)
    top, high = _within((y0 + y1) / 2, side, height)
    scale = max(guide_size / max(wide, high), 1.0)
    size = tuple(max(round(part * scale / step), 1) * step for part in (high, wide))
    return Window(left, top, left + wide, top + high, height, width, size)


def _within(middle: float, side: float, limit: int) -> tuple[int, int]:
    """(start, length) of an interval of about `side` around `middle`, moved into 0 … limit."""
    length = min(max(round(side), 1), limit)
    return min(max(round(middle - length / 2), 0), limit - length), length


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [B, C, h, w]: bicubic, antialiased, clamped to the range of the input."""
    if tuple(picture.shape[-2:]) == tuple(size):
        return picture
    smooth = F.interpolate(picture.float(), size, mode="bicubic", antialias=True, align_corners=False)
    return smooth.clamp(float(picture.min()), float(picture.max())).to(picture.dtype)
