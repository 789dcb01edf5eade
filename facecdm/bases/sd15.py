"""Stable Diffusion 1.5 and its fine-tunes."""

from .base import Base
from .layers import LayerMap

# One layer per block; block 6 is the middle one.
BLOCKS = tuple((number, 1) for number in (*range(6), *range(7, 16), 6))

# The blocks for style and for composition, as IPAdapter_plus has them.
_STYLE = {number: 1.0 for number in (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)}
_COMPOSITION = {4: 0.25, 5: 1.0}
PRESETS = {
    "style": _STYLE,
    "strong style": {number: 1.0 for number in range(16) if number not in (4, 5)},
    "composition": _COMPOSITION,
    "style and composition": {**_STYLE, **_COMPOSITION},
}

SD15 = Base(
    "SD1.5",
    LayerMap.of_runs(
        768,
        ("input", 320, 8, 2),
        ("input", 640, 8, 2),
        ("input", 1280, 8, 2),
        ("output", 1280, 8, 3),
        ("output", 640, 8, 3),
        ("output", 320, 8, 3),
        ("middle", 1280, 8, 1),
    ),
    BLOCKS,
    PRESETS,
    face_crop=224,
)
