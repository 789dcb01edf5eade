"""Published keys and values in a U-Net's cross-attention, and the LoRA beside them, under IP-Adapter's numbers.

Layer i of the map (down, up, mid) is number 2 i + 1: `{number}.to_{k,v}_ip.weight`. A LoRA also has the self-attention
before it, number 2 i: `{number}.to_{q,k,v,out}_lora.{down,up}.weight`.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapter.model import StreamLayers
from ..bases import BASES
from ..bases.layers import LayerMap
from ..errors import BadFile, UnsupportedModel

if TYPE_CHECKING:
    from .family import State
    from .read import Published

_LORA = re.compile(r"(\d{1,4})\.to_(q|k|v|out)_lora\.(down|up)\.weight")


@dataclass(frozen=True)
class UnetLayers:
    """Keys and values of every cross-attention layer."""

    for_controlnets = True

    def matches(self, state: "State") -> bool:
        return any(key.endswith(".to_k_ip.weight") for key in state)

    def layer_map(self, published: "Published") -> LayerMap:
        """The base model whose cross-attention has the file's widths. Raises BadFile, UnsupportedModel."""
        state = published.ip_adapter
        count = sum(key.endswith(".to_k_ip.weight") for key in state)
        for part in ("k", "v"):
            missing = [key for key in _keys(part, count) if key not in state]
            if missing:
                raise BadFile(f"{published.path} has {count} layers but no {missing[0]}: get the file again.")
        keys, values = ([state[key] for key in _keys(part, count)] for part in ("k", "v"))
        wrong = next((i for i, (k, v) in enumerate(zip(keys, values)) if k.ndim != 2 or k.shape != v.shape), None)
        if wrong is not None:
            raise BadFile(
                f"{published.path}: keys and values of layer {2 * wrong + 1} have shapes {tuple(keys[wrong].shape)} "
                f"and {tuple(values[wrong].shape)}, which do not fit together: get the file again."
            )
        shapes = [tuple(key.shape) for key in keys]
        unets = [base for base in BASES.values() if not base.layer_map.is_dit]
        for base in unets:
            if shapes == [(layer.width, base.text_width) for layer in base.layer_map.layers]:
                return base.layer_map
        raise UnsupportedModel(
            f"{published.path.name} was made for a U-Net of {count} cross-attention layers and text width "
            f"{shapes[0][1]}; FaceCDM knows {', '.join(base.name for base in unets)}."
        )

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> StreamLayers:
        """Keys, values and κ of a file as a stream with gates of 1; shares the file's tensors."""
        with torch.device("meta"):
            stream = StreamLayers(layer_map, 1, torch.float32)
        weights = {"gate.knots": torch.ones(1, layer_map.heads), "kappa": torch.tensor(kappa)}
        for part in ("k", "v"):
            for index, key in enumerate(_keys(part, len(layer_map.layers))):
                weights[f"to_{part}.{index}.weight"] = published.ip_adapter[key]
        stream.load_state_dict(weights, assign=True)
        return stream


def _keys(part: str, count: int) -> list[str]:
    return [f"{2 * index + 1}.to_{part}_ip.weight" for index in range(count)]


def lora_rank(state: "State") -> int:
    """The LoRA's rank; 0 without one, or if it is all zeros. Our exports contain a LoRA of zeros, by which other
    programs recognise FaceID.
    """
    ups = [value for key, value in state.items() if key.endswith("_lora.up.weight")]
    return ups[0].shape[1] if any(bool((value != 0).any()) for value in ups) else 0


def lora_of(published: "Published", layers: LayerMap) -> dict[str, Tensor]:
    """The LoRA's tensors, by their names in the file.

    Raises BadFile for an unknown name, a layer with only one half, or a half of wrong width or rank. ComfyUI would skip
    such a layer without a message.
    """
    lora = {key: value for key, value in published.ip_adapter.items() if "_lora." in key}
    for key, half in lora.items():
        name, _, direction = key.removesuffix(".weight").rpartition(".")
        other = lora.get(f"{name}.{'up' if direction == 'down' else 'down'}.weight")
        problem = _problem(key, half, other, layers)
        if problem:
            raise BadFile(f"{published.path}: its LoRA's {key} {problem}. The file is damaged: get it again.")
    return lora


def _problem(key: str, half: Tensor, other: Tensor | None, layers: LayerMap) -> str:
    found = _LORA.fullmatch(key)
    if found is None or int(found[1]) >= 2 * len(layers.layers):
        return "belongs to no attention of the base model"
    if other is None:
        return "has no other half"
    number, part, direction = int(found[1]), found[2], found[3]
    width = layers.layers[number // 2].width
    reads = layers.context if number % 2 and part in "kv" else width
    rank = other.shape[direction == "down"] if other.ndim == 2 else 0
    wanted = (rank, reads) if direction == "down" else (width, rank)
    if tuple(half.shape) != wanted or not rank:
        return f"has shape {list(half.shape)}, and its layer and other half need {list(wanted)}"
    return ""
