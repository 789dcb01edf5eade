"""Tiled diffusion: the part of the picture that one call of the U-Net computes.

Packs such as ComfyUI-TiledDiffusion cut the noisy latents into tiles and do not report their positions. A tile is
an exact copy of its part, so it is found by its content.
"""

import torch
from torch import Tensor

TILES = "facecdm_tiles"  # in the transformer_options of a call: an Area or None for each tile of its batch

Area = tuple[int, int, int, int]  # height, width, top, left in latents

UNKNOWN = (
    "the picture is sampled in tiles, and their positions cannot be found. Masks and poses are scaled to each whole "
    "tile. If that shows, sample without tiles, or without mask and pose."
)


def find_tiles(x: Tensor, whole: Tensor, chunks: int, locate: bool = True) -> tuple[Area | None, ...] | None:
    """The tiles that a batch x [tiles × chunks × B, C, h, w] holds of latents `whole` [B, C, H, W]; None: no tiles.

    A tile that is not found, or is not to be located, is None.
    """
    rows = chunks * len(whole)
    if x.shape[-2:] == whole.shape[-2:] or x.ndim != 4 or len(x) % rows:
        return None
    return tuple(_find(x[first], whole[0]) if locate else None for first in range(0, len(x), rows))


def _find(tile: Tensor, whole: Tensor) -> Area | None:
    tile, (height, width) = tile.to(whole), tile.shape[-2:]
    rows, columns = whole.shape[-2] - height + 1, whole.shape[-1] - width + 1
    if rows < 1 or columns < 1:
        return None
    corners = (whole[:, :rows, :columns] == tile[:, :1, :1]).all(0)
    for top, left in corners.nonzero().tolist():
        if torch.equal(whole[:, top : top + height, left : left + width], tile):
            return height, width, top, left
    return None


def within(tile: Area | None, area: Area | None) -> Area | None:
    """A tile of an area's latents, as an area of the whole picture; the area itself if there is no tile."""
    if tile is None or area is None:
        return tile or area
    height, width, top, left = tile
    return height, width, area[2] + top, area[3] + left
