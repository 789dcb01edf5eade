"""The attacher for U-Nets: find the cross-attention layers of a ComfyUI MODEL, in the layer map's order."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel

_BLOCKS = {"input": "input_blocks", "output": "output_blocks", "middle": "middle_block"}


class CrossAttention(NamedTuple):
    """One cross-attention layer of a MODEL.

    key     of its `attn2` patch: (part, number of the block, number of the transformer block in it)
    path    of the module from the MODEL's base
    module  ComfyUI's CrossAttention
    """

    key: tuple[str, int, int]
    path: str
    module: nn.Module


def cross_attentions(model) -> list[CrossAttention]:
    """The layers of a MODEL (ModelPatcher). Raises UnsupportedModel if it has none of this kind."""
    from comfy.ldm.modules.attention import SpatialTransformer

    unet = model.model.diffusion_model
    found = []
    for part, attribute in _BLOCKS.items():
        blocks = getattr(unet, attribute, ())
        for number, block in enumerate([blocks] if part == "middle" and blocks else blocks):
            prefix = f"diffusion_model.{attribute}" + ("" if part == "middle" else f".{number}")
            found += [
                CrossAttention((part, number, i), f"{prefix}.{position}.transformer_blocks.{i}.attn2", inner.attn2)
                for position, module in enumerate(block)
                if type(module) is SpatialTransformer
                for i, inner in enumerate(module.transformer_blocks)
            ]
    if not found:
        raise UnsupportedModel(
            "FaceCDM works in the cross-attention of U-Nets (SD1.5, SD2, SDXL and their fine-tunes) and in the blocks "
            "of Flux.1, Chroma, SD3.5, Qwen-Image and Z-Image. This MODEL is a "
            f"{type(model.model).__name__} ({type(unet).__name__}), which has none: load a checkpoint of those."
        )
    return found


def layer_map(model) -> LayerMap:
    """The cross-attention layers of a MODEL. Raises UnsupportedModel as `cross_attentions`."""
    found = cross_attentions(model)
    return LayerMap(
        tuple(Layer(layer.key[0], layer.module.to_q.out_features, layer.module.heads) for layer in found),
        found[0].module.to_k.in_features,
    )


def text_keys_values(model) -> Iterator[tuple[Tensor, Tensor]]:
    """The base model's own key and value weights for text, without LoRA patches, in the layer map's order."""
    originals = model.backup
    for layer in cross_attentions(model):
        yield tuple(
            originals[f"{layer.path}.{part}.weight"].weight
            if f"{layer.path}.{part}.weight" in originals
            else getattr(layer.module, part).weight
            for part in ("to_k", "to_v")
        )


def attention_paths(model) -> list[str]:
    """Paths of all attentions, as IP-Adapter counts them: self (even) and cross (odd) of each block in turn."""
    return [
        path for layer in cross_attentions(model) for path in (layer.path.removesuffix("attn2") + "attn1", layer.path)
    ]
