"""FLUX.1 (dev, schnell, Krea, Fill, Kontext) and Chroma, whose blocks have the same sizes.

black-forest-labs/flux, src/flux/util.py; lodestone-rock/flow for Chroma.
"""

from .base import Base
from .layers import LayerMap
from .noise import Flow

FLUX = Base(
    "Flux.1",
    LayerMap.of_runs(4096, ("double", 3072, 24, 19), ("single", 3072, 24, 38)),
    tuple((number, 1) for number in range(57)),  # 0 … 18 are the double blocks, 19 … 56 the single ones
    resolution=1024,
    step=16,
    pooled_text=True,
    patch=2,
    noise=Flow(),
)
