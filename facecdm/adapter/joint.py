"""Decoupled attention in the joint blocks of Stable Diffusion 3, with keys and values that depend on the timestep.

A_s = softmax(Q [K_s; K]ᵀ/√d) [V_s; V] is added to the attention of the picture's tokens before its output projection.
K and V are the block's own keys and values of the picture. Q and K are normalised by weights of the stream in place of
the block's. InstantX's IP-Adapter for SD3.5 is of this kind (diffusers, SD3IPAdapterJointAttnProcessor2_0).
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from .attention import LayerStream, expand, span_of
from .cells import Casting
from .decoupled import rms_normalised
from .stream_module import IN_JOINT_ATTENTION, KeysValues, StreamModule

EPSILON = 1e-6  # of the norms


class JointLayer(nn.Module):
    """One block's keys and values, and the weights of the norms of its queries and of the picture's keys.

    norm  the timestep's embedding → shift and scale of the normalised tokens
    """

    def __init__(
        self, context: int, width: int, head: int, time: int, dtype: torch.dtype, operations: ModuleType | type
    ):
        super().__init__()
        self.heads = width // head
        self.norm = operations.Linear(time, 2 * context, dtype=dtype)
        self.to_k = operations.Linear(context, width, bias=False, dtype=dtype)
        self.to_v = operations.Linear(context, width, bias=False, dtype=dtype)
        self.norm_q, self.norm_k, self.norm_own_k = (nn.Parameter(torch.empty(head, dtype=dtype)) for _ in range(3))

    def forward(self, tokens: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [R, N, context] and the activated embedding of the timestep [1, time] → k, v [R, N, width]."""
        shift, scale = self.norm(time)[:, None].chunk(2, -1)
        tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=EPSILON) * (1 + scale) + shift
        k = rms_normalised(self.to_k(tokens).unflatten(-1, (self.heads, -1)), EPSILON) * self.norm_own_k.to(tokens)
        return k.flatten(2), self.to_v(tokens)

    def factors(self, norm_q: Tensor, norm_k: Tensor) -> tuple[Tensor, Tensor]:
        """Factors [width] that turn queries and keys normalised with the block's weights into the stream's."""
        pairs = (self.norm_q, norm_q), (self.norm_k, norm_k)
        return tuple((own.to(base) / base).repeat(self.heads) for own, base in pairs)


class TimedKeysValues(nn.Module):
    """The modules that run at every step: a picture's states → keys and values of each block at one timestep.

    resampler  projected states [R, M, width] and timestep [1] → tokens [R, N, context], embedding of the timestep
               [1, time]; its `proj_in` projects states, once a prompt
    """

    def __init__(self, resampler: nn.Module, layers: list[JointLayer]):
        super().__init__()
        self.resampler, self.layers = resampler, nn.ModuleList(layers)

    def forward(self, states: Tensor, timestep: Tensor) -> list[tuple[Tensor, Tensor]]:
        tokens, time = self.resampler(states, timestep)
        time = F.silu(time)
        return [layer(tokens, time) for layer in self.layers]


class JointLayers(StreamModule):
    """One stream's attention in every joint block.

    make  builds a TimedKeysValues without weights of a host's layers
    """

    place, timed = IN_JOINT_ATTENTION, True

    def __init__(self, layer_map: LayerMap, make: Callable[[ModuleType | type], TimedKeysValues]):
        super().__init__(layer_map, tuple(range(len(layer_map.layers))))
        self._make = make
        self.step = self._empty(Casting)
        self.add_gates(layer_map)

    @property
    def every_step(self) -> nn.Module:
        return self.step

    def _empty(self, operations: ModuleType | type) -> TimedKeysValues:
        with torch.device("meta"):
            return self._make(operations)

    def use_operations(self, operations: ModuleType | type) -> nn.Module:
        made = self._empty(operations)
        made.load_state_dict(self.step.state_dict(), assign=True)
        self.step = made.requires_grad_(False)
        return made

    def parts(self) -> dict[int, nn.Module]:
        return dict(zip(self.at, self.step.layers))

    def timed_states(self, features: Tensor) -> Tensor:
        return self.step.resampler.proj_in(features)

    def timed_keys_values(self, states: Tensor, timestep: Tensor) -> KeysValues:
        return self.step(states, timestep)


def beside_picture(stream: LayerStream, k: Tensor, v: Tensor, norm_q: Tensor, norm_k: Tensor) -> LayerStream:
    """The stream, its keys and values followed by the block's own [B, n, C] of the picture.

    norm_q, norm_k  weights [C / heads] with which the block normalised its queries and `k`
    """
    q_factor, k_factor = stream.part.factors(norm_q, norm_k)
    k, v = k[span_of(stream)] * k_factor, v[span_of(stream)]
    own_k, own_v = (expand(x, stream.rows) for x in (stream.k, stream.v))
    return replace(stream, k=torch.cat([own_k, k], 1), v=torch.cat([own_v, v], 1), q_factor=q_factor)
