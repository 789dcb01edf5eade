"""Stable Diffusion XL and its fine-tunes."""

from .base import Base
from .layers import LayerMap

# The blocks for style and for composition (InstantStyle, Wang et al. 2024).
PRESETS = {
    "style": {6: 1.0},
    "strong style": {number: 1.0 for number in range(11) if number != 3},
    "composition": {3: 1.0},
    "style and composition": {3: 1.0, 6: 1.0},
}

SDXL = Base(
    "SDXL",
    LayerMap.of_runs(
        2048,
        ("input", 640, 10, 4),
        ("input", 1280, 20, 20),
        ("output", 1280, 20, 30),
        ("output", 640, 10, 6),
        ("middle", 1280, 20, 10),
    ),
    ((0, 2), (1, 2), (2, 10), (3, 10), (5, 10), (6, 10), (7, 10), (8, 2), (9, 2), (10, 2), (4, 10)),
    PRESETS,
    resolution=1024,
    pooled_text=True,
)
