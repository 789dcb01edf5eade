"""Stable Diffusion 2 and 2.1: the blocks of SD1.5, another text tower and narrower heads."""

from .base import Base
from .layers import LayerMap
from .sd15 import BLOCKS, PRESETS

SD2 = Base(
    "SD2",
    LayerMap.of_runs(
        1024,
        ("input", 320, 5, 2),
        ("input", 640, 10, 2),
        ("input", 1280, 20, 2),
        ("output", 1280, 20, 3),
        ("output", 640, 10, 3),
        ("output", 320, 5, 3),
        ("middle", 1280, 20, 1),
    ),
    BLOCKS,
    PRESETS,
    resolution=768,
)
