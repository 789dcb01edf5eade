"""Find the cross-attention layers of diffusers' U-Nets."""

from torch import nn

from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel

_PARTS = {"down_blocks": "input", "up_blocks": "output", "mid_block": "middle"}


def cross_attentions(unet: nn.Module) -> list[nn.Module]:
    """The cross-attention layers in the layer map's order. Raises UnsupportedModel for a model of another kind."""
    return [module for _, module in _cross_attentions(unet)]


def layer_map(unet: nn.Module) -> LayerMap:
    """The layers of a `UNet2DConditionModel`. Raises UnsupportedModel as `cross_attentions`."""
    layers = (
        Layer(_PARTS[name.split(".")[0]], module.to_q.out_features, module.heads)
        for name, module in _cross_attentions(unet)
    )
    return LayerMap(tuple(layers), unet.config.cross_attention_dim)


def _cross_attentions(unet: nn.Module) -> list[tuple[str, nn.Module]]:
    if not all(hasattr(unet, part) for part in _PARTS):
        raise UnsupportedModel(
            f"{type(unet).__name__} is not a U-Net with cross-attention; "
            "FaceCDM needs one such as that of Stable Diffusion 1.5 or XL"
        )
    found = [(name, module) for name, module in unet.named_modules() if name.endswith(".attn2")]
    order = list(_PARTS)
    return sorted(found, key=lambda item: order.index(item[0].split(".")[0]))
