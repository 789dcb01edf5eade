"""The resampler of InstantX's IP-Adapter for SD3.5: learnt tokens attend to a vision tower's states at a timestep.

InstantX/SD3.5-Large-IP-Adapter; huggingface/diffusers, IPAdapterTimeImageProjection. The keys are those of the file.
"""

import math
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adapter.attention import attend
from ..adapter.features import Features
from ..tensor_file import count_numbered
from .family import Sizes, State
from .projectors import HEAD

PERIOD = 10000  # longest period of the timestep's sinusoids


class States(nn.Module):
    """A vision tower's states [R, M, W] unchanged; `TimeResampler` makes tokens of them at every step."""

    @classmethod
    def of(cls, state: State) -> "States":
        return cls()

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(state["latents"].shape[1], vision_width=state["proj_in.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        return features.states


class TimeResampler(nn.Module):
    """States after `proj_in` [R, M, width] and timestep [1] → tokens [R, N, context], and the embedding of the timestep
    [1, width].
    """

    def __init__(self, state: State, operations: ModuleType | type):
        """Empty weights of the shapes in a file's `image_proj`."""
        super().__init__()
        latents, dtype = state["latents"], state["latents"].dtype
        width, states = state["proj_in.weight"].shape
        inner, feed = (state[f"layers.0.{key}.weight"].shape[0] for key in ("0.to_q", "1.1"))
        context, self.waves = state["proj_out.weight"].shape[0], state["time_embedding.linear_1.weight"].shape[1]
        self.latents = nn.Parameter(torch.empty(latents.shape, dtype=dtype))
        self.time_embedding = nn.ModuleDict(
            {
                "linear_1": operations.Linear(self.waves, width, dtype=dtype),
                "linear_2": operations.Linear(width, width, dtype=dtype),
            }
        )
        self.proj_in = operations.Linear(states, width, dtype=dtype)
        self.layers = nn.ModuleList(
            _block(width, inner, feed, dtype, operations) for _ in range(count_numbered(state, "layers."))
        )
        self.proj_out = operations.Linear(width, context, dtype=dtype)
        self.norm_out = operations.LayerNorm(context, dtype=dtype)

    def forward(self, states: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        time = self.time_embedding["linear_1"](sinusoids(timestep, self.waves).to(states))
        time = self.time_embedding["linear_2"](F.silu(time))
        states = states + time[:, None]
        tokens = self.latents.to(states).expand(len(states), -1, -1)
        for attention, feed, modulation in self.layers:
            shifts = modulation(time)[:, None].chunk(4, -1)
            tokens = tokens + attention(tokens, states, *shifts[:2])
            tokens = tokens + _feed(feed, tokens, *shifts[2:])
        return self.norm_out(self.proj_out(tokens)), time


def _block(width: int, inner: int, feed: int, dtype: torch.dtype, operations: ModuleType | type) -> nn.ModuleList:
    """Attention, feed-forward, and their shifts and scales from the timestep's embedding."""
    return nn.ModuleList(
        [
            TimedAttention(width, inner, dtype, operations),
            nn.Sequential(
                operations.LayerNorm(width, dtype=dtype),
                operations.Linear(width, feed, bias=False, dtype=dtype),
                nn.GELU(),
                operations.Linear(feed, width, bias=False, dtype=dtype),
            ),
            nn.Sequential(nn.SiLU(), operations.Linear(width, 4 * width, dtype=dtype)),
        ]
    )


class TimedAttention(nn.Module):
    """Shifted and scaled tokens [R, N, width] attend to states [R, M, width] and to themselves."""

    def __init__(self, width: int, inner: int, dtype: torch.dtype, operations: ModuleType | type):
        super().__init__()
        self.heads = inner // HEAD
        self.norm1 = operations.LayerNorm(width, dtype=dtype)  # of the states
        self.norm2 = operations.LayerNorm(width, dtype=dtype)  # of the tokens
        self.to_q = operations.Linear(width, inner, bias=False, dtype=dtype)
        self.to_kv = operations.Linear(width, 2 * inner, bias=False, dtype=dtype)
        self.to_out = operations.Linear(inner, width, bias=False, dtype=dtype)

    def forward(self, tokens: Tensor, states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        tokens = self.norm2(tokens) * (1 + scale) + shift
        k, v = self.to_kv(torch.cat([self.norm1(states), tokens], 1)).chunk(2, -1)
        return self.to_out(attend(self.to_q(tokens), k, v, self.heads))


def _feed(feed: nn.Sequential, tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return feed[1:](feed[0](tokens) * (1 + scale) + shift)


def sinusoids(timestep: Tensor, width: int) -> Tensor:
    """Timestep [1] in 0…1000 → cosines and sines [1, width] of periods up to 10,000, float32."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(PERIOD) / half))
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)
