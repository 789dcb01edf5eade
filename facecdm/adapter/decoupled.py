"""Decoupled attention in a DiT: a block's own queries attend to a stream's keys and values.

The queries are those of the picture's tokens, normalised and not yet rotated by their positions. The result is added to
the block's attention before its output projection (InstantX' IP-Adapter), or to the block's result (XLabs' IP-Adapter).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from .gates import NoiseGate

EPSILON = 1e-5  # of the normalisation of keys and values


class DecoupledLayers(nn.Module):
    """One stream's keys and values for a DiT's own queries, with the interface of `StreamLayers`.

    at           the blocks that have them, as indices in the layer map
    bias         whether keys and values have biases
    normalise    whether each head of keys and values is divided by its root mean square
    after_block  whether the attention is added to the block's result, not to the block's attention
    """

    router = None

    def __init__(
        self,
        layer_map: LayerMap,
        at: tuple[int, ...],
        bias: bool,
        normalise: bool,
        after_block: bool,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.at, self.normalise, self.after_block = at, normalise, after_block
        self.heads = [layer.heads for layer in layer_map.layers]
        self.to_k, self.to_v = (
            nn.ModuleList(
                nn.Linear(layer_map.context, layer_map.layers[index].width, bias, dtype=dtype) for index in at
            )
            for _ in range(2)
        )
        self.gate = NoiseGate(layer_map, 1)
        self.kappa = nn.Parameter(torch.zeros(()))

    def keys_values(self, tokens: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Tokens [B, N, context] → k, v for each block of the layer map; None for a block without them.

        Weights on another device are moved one layer at a time.
        """
        made: list[tuple[Tensor, Tensor] | None] = [None] * len(self.heads)
        for index, *layers in zip(self.at, self.to_k, self.to_v):
            k, v = (self._of(layer, tokens, self.heads[index]) for layer in layers)
            made[index] = k, v
        return made

    def _of(self, layer: nn.Linear, tokens: Tensor, heads: int) -> Tensor:
        bias = None if layer.bias is None else layer.bias.to(tokens)
        x = F.linear(tokens, layer.weight.to(tokens), bias)
        return _normalised(x.unflatten(-1, (heads, -1))).flatten(2) if self.normalise else x


def _normalised(x: Tensor) -> Tensor:
    return (x.float() * (x.float().square().mean(-1, keepdim=True) + EPSILON).rsqrt()).to(x.dtype)
