"""The base model of a ComfyUI MODEL, of whichever kind it is."""

from collections.abc import Iterator

from torch import Tensor

from ...bases.layers import LayerMap
from . import dit, unet


def layer_map(model) -> LayerMap:
    """The layers of a MODEL that adapters act on. Raises UnsupportedModel if it has none."""
    return dit.layer_map(model) if dit.is_dit(model) else unet.layer_map(model)


def text_keys_values(model) -> Iterator[tuple[Tensor, Tensor]]:
    """A U-Net's own key and value weights for text, in the layer map's order; none for a DiT.

    Raises UnsupportedModel for a MODEL that FaceCDM cannot train an adapter for.
    """
    if not dit.is_dit(model):
        return unet.text_keys_values(model)
    dit.check_trainable(model)
    dit.check_applicable(model)
    return iter(())
