"""Published keys and values for the blocks of a DiT: `{number}.to_{k,v}_ip.{weight,bias}`, numbered from 0."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapter.decoupled import DecoupledLayers
from ..adapter.stream_module import StreamModule
from ..bases.base import Base
from ..bases.layers import LayerMap
from .dit_bases import dit_layer_map

if TYPE_CHECKING:
    from .read import Published

_KEYS = re.compile(r"\d{1,4}\.to_k_ip\.weight")


@dataclass(frozen=True)
class BlockKeys:
    """A family's keys and values; a file does not say how they are used.

    parts      the kinds of blocks that have them: double, single
    place      as in DecoupledLayers
    bias       whether they have biases
    normalise  as in DecoupledLayers
    """

    parts: tuple[str, ...]
    place: str
    bias: bool = False
    normalise: bool = False
    for_controlnets = False

    def matches(self, state: dict[str, Tensor]) -> bool:
        return "0.to_k_ip.weight" in state and ("0.to_k_ip.bias" in state) == self.bias

    def at(self, layer_map: LayerMap) -> tuple[int, ...]:
        """The blocks that have keys and values, as indices in the layer map."""
        return tuple(index for index, layer in enumerate(layer_map.layers) if layer.part in self.parts)

    def layer_map(self, published: "Published") -> LayerMap:
        """The base model whose blocks have the file's keys and values. Raises UnsupportedModel."""
        state = published.ip_adapter
        count = sum(_KEYS.fullmatch(key) is not None for key in state)
        width, context = state["0.to_k_ip.weight"].shape

        def fits(base: Base) -> bool:
            sizes = base.layer_map.layers[0].width, base.text_width, len(self.at(base.layer_map))
            return sizes == (width, context, count)

        return dit_layer_map(published, fits, f"a DiT of width {width} and text width {context} with {count} blocks")

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> StreamModule:
        """The file's keys and values with gates of 1; shares the file's tensors."""
        state, at = published.ip_adapter, self.at(layer_map)
        with torch.device("meta"):
            dtype = state["0.to_k_ip.weight"].dtype
            stream = DecoupledLayers(layer_map, at, self.place, self.bias, self.normalise, dtype)
        weights = {"gate.knots": torch.ones(1, layer_map.heads), "kappa": torch.tensor(kappa)}
        for key, value in state.items():
            number, part, kind = key.split(".")
            weights[f"{part.removesuffix('_ip')}.{number}.{kind}"] = value
        stream.load_state_dict(weights, assign=True)
        return stream
