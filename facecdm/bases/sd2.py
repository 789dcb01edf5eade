"""Stable Diffusion 2 and 2.1: the layers of SD1.5 with heads of 64 features, and another text encoder."""

from dataclasses import replace

from .base import Base
from .layers import LayerMap
from .sd15 import BLOCKS, PRESETS, SD15

LAYERS = tuple(replace(layer, heads=layer.width // 64) for layer in SD15.layer_map.layers)

SD2 = Base("SD2", LayerMap(LAYERS, context=1024), BLOCKS, PRESETS, resolution=768)
