"""Preview of regions."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .regions import Regions

COLOURS = ((64, 170, 240), (245, 150, 60), (90, 200, 120), (220, 110, 200), (240, 220, 80), (150, 130, 240))
_GROUND = (28, 30, 36)


def draw_regions(regions: Regions) -> Tensor:
    """Draw each region in a colour, with its number: [1, H, W, 3] float 0 … 1."""
    colours = torch.tensor([COLOURS[n % len(COLOURS)] for n in range(len(regions))]).float()
    flat = torch.einsum("nhw,nc->hwc", regions.masks, colours) + regions.background[..., None] * torch.tensor(_GROUND)
    canvas = Image.fromarray(flat.round().clamp(0, 255).byte().numpy())
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(12, min(canvas.size) // 6))
    for number, mask in enumerate(regions.masks, 1):
        if mask.any():
            y, x = ((mask.sum(1 - axis) * torch.arange(mask.shape[axis])).sum() / mask.sum() for axis in (0, 1))
            draw.text((float(x), float(y)), str(number), font=font, fill=(16, 20, 26), anchor="mm")
    return torch.from_numpy(np.asarray(canvas, np.float32).copy() / 255)[None]
