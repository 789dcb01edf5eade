"""Stable Diffusion 3.5: Large (also Turbo), and Medium, whose blocks have the sizes of SD3 Medium.

Stability-AI/sd3.5, mmditx.py and sd3_infer.py. All blocks are joint ones. Times are shifted by a factor of 3, whatever
the picture's size.
"""

import math

from .base import Base
from .layers import LayerMap
from .noise import Flow

_NOISE = Flow(shifts=(math.log(3),) * 2)


def _base(name: str, width: int, count: int) -> Base:
    heads = width // 64
    return Base(
        name,
        LayerMap.of_runs(4096, ("double", width, heads, count)),
        tuple((number, 1) for number in range(count)),
        resolution=1024,
        step=16,
        pooled_text=True,
        patch=2,
        noise=_NOISE,
    )


SD35_LARGE = _base("SD3.5 Large", 2432, 38)
SD35_MEDIUM = _base("SD3.5 Medium", 1536, 24)
