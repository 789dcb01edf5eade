"""Region masks on the grid of a layer."""

from torch import Tensor
from torch.nn import functional as F


def resize_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask [H, W] to [1, height × width, 1]: each position is the mean of the pixels that it covers."""
    return F.interpolate(mask[None, None].float(), (height, width), mode="area").flatten(2).transpose(1, 2)
