"""The base model of a ComfyUI MODEL, of whichever kind it is."""

from ...bases.layers import LayerMap
from . import dit, unet


def layer_map(model) -> LayerMap:
    """The layers of a MODEL that adapters act on. Raises UnsupportedModel if it has none."""
    return dit.layer_map(model) if dit.is_dit(model) else unet.layer_map(model)
