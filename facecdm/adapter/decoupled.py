"""Decoupled attention in a DiT: a block's own queries attend to a stream's keys and values.

The queries are those of the picture's tokens, normalised and not yet rotated by their positions. The result is added to
the block's attention before its output projection (InstantX's IP-Adapter), or to the block's result (XLabs'
IP-Adapter).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from .stream_module import KeysValues, StreamModule

EPSILON = 1e-5  # of the normalisation of keys and values


class DecoupledLayers(StreamModule):
    """One stream's keys and values for a DiT's own queries.

    place      IN_ATTENTION or BESIDE_BLOCK
    bias       whether keys and values have biases
    normalise  whether each head of keys and values is divided by its root mean square
    """

    def __init__(
        self, layer_map: LayerMap, at: tuple[int, ...], place: str, bias: bool, normalise: bool, dtype: torch.dtype
    ):
        super().__init__(layer_map, at)
        self.place, self.normalise = place, normalise
        self.heads = [layer.heads for layer in layer_map.layers]
        self.to_k, self.to_v = (
            nn.ModuleList(
                nn.Linear(layer_map.context, layer_map.layers[index].width, bias, dtype=dtype) for index in at
            )
            for _ in range(2)
        )
        self.add_gates(layer_map)

    def keys_values(self, tokens: Tensor) -> KeysValues:
        made = super().keys_values(tokens)
        for index, *layers in zip(self.at, self.to_k, self.to_v):
            k, v = (self._of(layer, tokens, self.heads[index]) for layer in layers)
            made[index] = k, v
        return made

    def _of(self, layer: nn.Linear, tokens: Tensor, heads: int) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(tokens)
        x = F.linear(tokens, layer.weight.to(tokens), bias)
        return rms_normalised(x.unflatten(-1, (heads, -1)), EPSILON).flatten(2) if self.normalise else x


def rms_normalised(x: Tensor, epsilon: float) -> Tensor:
    """x divided by the root mean square of its last axis."""
    return (x.float() * (x.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()).to(x.dtype)
