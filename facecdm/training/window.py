"""Cropping of a batch to windows around its faces, with a quarter of the latents.

The face is a small part of most portraits, and a U-Net accepts pictures of any size (compare Wang et al. 2023, "Patch
Diffusion").
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .randomness import RandomNumbers
from .rows import Rows

MULTIPLE = 8  # the window's sides in latents are multiples of it, so that every level of a U-Net halves them evenly
OFFSET = 0.125  # largest distance between the window's centre and the face's, in window sides


def windowed(rows: Rows, random_numbers: RandomNumbers, stride: int = 1) -> tuple[Rows, RandomNumbers]:
    """Crop rows and noise to windows around the faces (see `rows_in_windows`)."""
    rows, cut = rows_in_windows(rows, random_numbers.window_shift, stride)
    return rows, replace(random_numbers, epsilon=cut(random_numbers.epsilon))


def rows_in_windows(rows: Rows, shift: Tensor, stride: int = 1) -> tuple[Rows, Callable[[Tensor], Tensor]]:
    """Crop rows to windows around the faces, with half the pictures' height and width.

    shift    [B, 2] in 0…1, positions of the windows
    stride   the windows begin at multiples of it (see Denoiser.stride)
    returns  the rows, and a function that crops other tensors of the latents' size in the same way

    Rows are unchanged if the window would not be smaller. Box and key points are then in 0…1 of the window, and SDXL's
    sizes give the window's crop.
    """
    height, width = rows.latents.shape[-2:]
    h, w = (-(-side // 2 // MULTIPLE) * MULTIPLE for side in (height, width))
    if h >= height or w >= width:
        return rows, lambda latents: latents
    corners = _corners(rows.box, shift.to(rows.box), (height, width), (h, w))
    corners = [(y - y % stride, x - x % stride) for y, x in corners]
    size, scale = rows.box.new_tensor([w, h]), rows.box.new_tensor([width, height])
    corner = torch.tensor([(x, y) for y, x in corners], dtype=rows.box.dtype, device=rows.box.device)
    prompt = rows.prompt
    if prompt.sizes is not None:
        pixels = prompt.sizes[:, 4:] / prompt.sizes.new_tensor([height, width])  # pixels per latent
        at = torch.tensor(corners, device=pixels.device) * pixels
        prompt = replace(
            prompt,
            sizes=torch.cat([prompt.sizes[:, :2], prompt.sizes[:, 2:4] + at, pixels * pixels.new_tensor([h, w])], 1),
        )
    cut = replace(
        rows,
        latents=_cut(rows.latents, corners, h, w),
        prompt=prompt,
        control=None if rows.control is None else _cut(rows.control, corners, h, w, rows.control.shape[-2] // height),
        box=((rows.box.view(-1, 2, 2) * scale - corner[:, None]) / size).clamp(0, 1).flatten(1),
        keypoints=(rows.keypoints * scale - corner[:, None]) / size,
    )
    return cut, lambda latents: _cut(latents, corners, h, w)


def _corners(box: Tensor, shift: Tensor, whole: tuple[int, int], window: tuple[int, int]) -> list[tuple[int, int]]:
    """The top and left latent of each row's window. The window lies inside the picture."""
    size = box.new_tensor([whole[1], whole[0]])
    middle = (box[:, :2] + box[:, 2:]) / 2
    middle = torch.where((box[:, 2:] > box[:, :2]).all(1, keepdim=True), middle, torch.full_like(middle, 0.5)) * size
    side = box.new_tensor([window[1], window[0]])
    left_top = (middle - side / 2 + (shift * 2 - 1) * OFFSET * side).round()
    left_top = torch.minimum(left_top.clamp(min=0), size - side)
    return [(int(y), int(x)) for x, y in left_top.tolist()]


def _cut(pictures: Tensor, corners: list[tuple[int, int]], h: int, w: int, times: int = 1) -> Tensor:
    return torch.stack(
        [one[:, y * times : (y + h) * times, x * times : (x + w) * times] for one, (y, x) in zip(pictures, corners)]
    )
