"""Facts about the base models, one entry each. A new base model needs one file here and a line in `BASES`.

Its only import from facecdm is `errors`. The names of a base model's layers in a host are in
that host's attacher (unet.py and dit.py in hosts/comfy and in hosts/diffusers).
"""

from .base import Base
from .demo import DEMO
from .flux import FLUX
from .layers import LayerMap
from .qwen_image import QWEN_IMAGE
from .sd2 import SD2
from .sd15 import SD15
from .sd35 import SD35_LARGE, SD35_MEDIUM
from .sdxl import SDXL
from .z_image import Z_IMAGE

BASES = {base.name: base for base in (SD15, SD2, SDXL, DEMO, FLUX, SD35_LARGE, SD35_MEDIUM, QWEN_IMAGE, Z_IMAGE)}


def base_of(layer_map: LayerMap) -> Base | None:
    """The base model with these layers; None for an unknown one."""
    return next((base for base in BASES.values() if base.layer_map == layer_map), None)


def name_of(layer_map: LayerMap) -> str:
    """The base model's name, or a description of its shape for an unknown one."""
    base = base_of(layer_map)
    if base:
        return base.name
    count = "DiT of {} blocks" if layer_map.is_dit else "U-Net of {} cross-attention layers"
    return f"{count.format(len(layer_map.layers))}, text width {layer_map.context}"


def base_like(layer_map: LayerMap) -> Base:
    """The base model with these layers; for an unknown DiT, Flux.1; for an unknown U-Net, see `base_for_text`."""
    return base_of(layer_map) or (FLUX if layer_map.is_dit else base_for_text(layer_map.context))


def base_for_text(width: int, pooled: bool = False) -> Base:
    """The base model that reads text of `width` features; for an unknown width, the first with the same `pooled`."""
    bases = list(BASES.values())
    return next(
        (base for base in bases if base.text_width == width), next(base for base in bases if base.pooled_text == pooled)
    )
