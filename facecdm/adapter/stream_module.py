"""The interface of the part of a stream that acts in a base model's layers."""

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

import torch
from torch import Tensor, nn

from ..bases.layers import LayerMap
from .gates import NoiseGate

# Keys and values per layer of the layer map, each [B, N, layer width]; None for a layer without the stream.
KeysValues = list[tuple[Tensor, Tensor]] | list[tuple[Tensor, Tensor] | None]

Projection = Callable[[Tensor], tuple[Tensor, Tensor]]  # tokens [..., context] → keys and values [..., C]
Extra = Mapping[nn.Linear, nn.Module]  # low-rank modules that are added to key and value weights, in training

# Where in a layer a stream acts.
CROSS_ATTENTION = "cross-attention"  # in a U-Net's cross-attention, beside the text
AFTER_BLOCK = "after block"  # after a DiT's block, with queries of its own: a residual cell (cells.py)
IN_ATTENTION = "in attention"  # in a DiT block's attention, with the block's queries (decoupled.py)
BESIDE_BLOCK = "beside block"  # after a DiT's block, with the queries of the block's attention (decoupled.py)
IN_JOINT_ATTENTION = "in joint attention"  # as IN_ATTENTION, beside the picture's own keys (joint.py)


class StreamModule(nn.Module):
    """The part of one stream that acts in the layers `at` (indices in the layer map). A subclass adds its weights.

    place       where in a layer it acts, one of the constants above
    timed       whether keys and values depend on the timestep
    gate, kappa  added by `add_gates`
    router      [layers, 4], or None
    """

    place, timed = CROSS_ATTENTION, False
    gate: NoiseGate
    kappa: nn.Parameter

    def __init__(self, layer_map: LayerMap, at: tuple[int, ...]):
        super().__init__()
        self.at, self.count = at, len(layer_map.layers)
        self.router: Tensor | None = None

    def add_gates(self, layer_map: LayerMap, knots: int = 1) -> None:
        """Add gate and κ; called after a subclass has made its layers, since optimizers store parameters by order."""
        self.gate = NoiseGate(layer_map, knots)
        self.kappa = nn.Parameter(torch.zeros(()))

    @property
    def every_step(self) -> nn.Module | None:
        """The module that runs at every step, which a host loads with the base model; None: only keys and values."""
        return None

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """Tokens [B, N, context] → k, v of each layer, on the tokens' device and in their dtype.

        Weights on another device are moved one layer at a time. While sampling, only the result is kept, which has a
        hundredth of the weights' size.
        """
        return [None] * self.count

    def timed_states(self, features: Tensor) -> Tensor:
        """For a `timed` stream: what all timesteps share, from features [R, M, W]; computed once a prompt."""
        raise NotImplementedError

    def timed_keys_values(self, states: Tensor, timestep: Tensor) -> KeysValues:
        """For a `timed` stream: the result of `timed_states` and the timestep [1] → k, v [R, N, C] of each layer."""
        raise NotImplementedError

    def use_operations(self, operations: ModuleType | type) -> nn.Module:
        """Rebuild `every_step` from a host's `Linear` and `LayerNorm`, with the same weights, and return it."""
        raise NotImplementedError

    def parts(self) -> dict[int, nn.Module]:
        """The parts of `every_step` by the index of the layer that they run in."""
        return {}


class TrainableStream(StreamModule):
    """A stream of FaceCDM's own adapters."""

    def projections(self, extra: Extra) -> list[Projection | None]:
        """The keys and values of each layer as a function of the tokens; None for a layer without the stream."""
        raise NotImplementedError

    def low_rank_layers(self) -> list[nn.Linear]:
        """The layers that training adds low-rank modules to."""
        raise NotImplementedError

    def last_layers(self) -> Iterable[nn.Linear]:
        """The layers that make the stream's result zero if their weights are."""
        raise NotImplementedError

    def keys_values(self, tokens: Tensor) -> KeysValues:
        return [None if project is None else project(tokens) for project in self.projections({})]

    def init_for_full_training(self) -> None:
        """Set gates to one and the last layers to zero. Tensors are replaced, since they may be shared."""
        self.gate.knots.data = torch.ones_like(self.gate.knots)
        for layer in self.last_layers():
            layer.weight.data = torch.zeros_like(layer.weight)


def parts_of(adapter: nn.Module) -> dict[str, dict[int, nn.Module]]:
    """`parts` of each stream of an adapter."""
    return {name: stream.parts() for name, stream in adapter.streams.items()}
