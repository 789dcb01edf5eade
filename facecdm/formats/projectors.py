"""Projector blocks that several published families share, with the keys of their files.

tencent-ailab/IP-Adapter: ip_adapter/{resampler,ip_adapter_faceid}.py. Each projector is built from the shapes of its
state dict, so no size is stated twice.
"""

import torch
from torch import Tensor, nn

from ..adapter.attention import attend
from ..adapter.features import Features
from ..tensor_file import count_numbered
from .family import Sizes, State

HEAD = 64  # features per head in every published resampler


class Identity(nn.Module):
    """The recogniser's embedding through two linear layers: FaceID, Portrait."""

    def __init__(self, width: int, hidden: int, count: int, context: int):
        super().__init__()
        self.count = count
        self.proj = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, count * context))
        self.norm = nn.LayerNorm(context)

    @classmethod
    def of(cls, state: State) -> "Identity":
        hidden, width = state["proj.0.weight"].shape
        return cls(width, hidden, identity_tokens(state), len(state["norm.weight"]))

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(identity_tokens(state), face_width=state["proj.0.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        return self.norm(self.proj(features.embedding).unflatten(-1, (self.count, -1)))


def identity_tokens(state: State) -> int:
    """Number of tokens of an `Identity` projector."""
    return len(state["proj.2.weight"]) // len(state["norm.weight"])


class Perceiver(nn.Module):
    """Tokens [R, N, width] attend to states [R, M, states' width] and to themselves; output width: context."""

    def __init__(self, states: int, width: int, heads: int, depth: int, feed: int, out: int):
        super().__init__()
        self.proj_in = nn.Linear(states, width)
        self.proj_out = nn.Linear(width, out)
        self.norm_out = nn.LayerNorm(out)
        self.layers = nn.ModuleList(
            nn.ModuleList([CrossAttentionBlock(width, heads), feed_forward(width, feed)]) for _ in range(depth)
        )

    @classmethod
    def of(cls, state: State, **more) -> "Perceiver":
        width, states = state["proj_in.weight"].shape
        heads, feed = heads_of(state["layers.0.0.to_q.weight"]), state["layers.0.1.1.weight"].shape[0]
        return cls(
            states, width, heads, count_numbered(state, "layers."), feed, state["proj_out.weight"].shape[0], **more
        )

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        states = self.proj_in(states)
        for attention, feed in self.layers:
            tokens = tokens + attention(tokens, states)
            tokens = tokens + feed(tokens)
        return self.norm_out(self.proj_out(tokens))


def heads_of(to_q: Tensor) -> int:
    """Number of heads of a resampler, from its queries' weight."""
    return to_q.shape[0] // HEAD


class Resampler(Perceiver):
    """Learnt tokens attend to a vision tower's states: Plus, Kolors."""

    def __init__(self, *sizes: int, count: int):
        super().__init__(*sizes)
        self.latents = nn.Parameter(torch.zeros(1, count, sizes[1]))

    @classmethod
    def of(cls, state: State) -> "Resampler":
        return super().of(state, count=state["latents"].shape[1])

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(state["latents"].shape[1], vision_width=state["proj_in.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        states = self._states(features)
        return super().forward(self.latents.expand(len(states), -1, -1), states)

    def _states(self, features: Features) -> Tensor:
        return features.states


class EmbeddingResampler(Resampler):
    """A resampler whose learnt tokens attend to one state, the recogniser's embedding: InstantID, Portrait-unnorm."""

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(state["latents"].shape[1], face_width=state["proj_in.weight"].shape[1])

    def _states(self, features: Features) -> Tensor:
        return features.embedding[:, None]


class CrossAttentionBlock(nn.Module):
    """Tokens [R, N, width] attend to states [R, M, width] and to themselves."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)  # of the states
        self.norm2 = nn.LayerNorm(width)  # of the tokens
        self.to_q = nn.Linear(width, heads * HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * HEAD, bias=False)
        self.to_out = nn.Linear(heads * HEAD, width, bias=False)

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        tokens = self.norm2(tokens)
        k, v = self.to_kv(torch.cat([self.norm1(states), tokens], 1)).chunk(2, -1)
        return self.to_out(attend(self.to_q(tokens), k, v, self.heads))


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False)
    )


def within(state: State, prefix: str) -> State:
    """The entries of a state dict under `prefix`, with the prefix removed."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
