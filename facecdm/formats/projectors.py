"""The projectors of published adapters, with the keys of their files: features in, tokens [R, N, context] out.

tencent-ailab/IP-Adapter: ip_adapter/{ip_adapter,resampler,ip_adapter_faceid,ip_adapter_faceid_separate}.py.
Each is made from the shapes of its state dict, so that no size stands here a second time.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from ..adapter.attention import attend
from ..adapter.features import Features

State = dict[str, Tensor]
HEAD = 64  # features of a head in every published resampler


class Projector(Protocol):
    """An nn.Module that makes tokens of features. `of` builds one for the shapes of a state dict."""

    @classmethod
    def of(cls, state: State) -> "Projector": ...

    def __call__(self, features: Features) -> Tensor: ...


class Pooled(nn.Module):
    """IP-Adapter: the pooled embedding, by one linear layer."""

    def __init__(self, width: int, count: int, context: int):
        super().__init__()
        self.count = count
        self.proj = nn.Linear(width, count * context)
        self.norm = nn.LayerNorm(context)

    @classmethod
    def of(cls, state: State) -> "Pooled":
        out, width = state["proj.weight"].shape
        context = len(state["norm.weight"])
        return cls(width, out // context, context)

    def forward(self, features: Features) -> Tensor:
        return self.norm(self.proj(features.embedding).unflatten(-1, (self.count, -1)))


class EveryState(nn.Module):
    """IP-Adapter Full-Face: every hidden state becomes a token."""

    def __init__(self, width: int, hidden: int, context: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, context), nn.LayerNorm(context)
        )

    @classmethod
    def of(cls, state: State) -> "EveryState":
        hidden, width = state["proj.0.weight"].shape
        return cls(width, hidden, state["proj.2.weight"].shape[0])

    def forward(self, features: Features) -> Tensor:
        return self.proj(features.states)


class Identity(nn.Module):
    """FaceID and Portrait: the recogniser's embedding, by two linear layers."""

    def __init__(self, width: int, hidden: int, count: int, context: int):
        super().__init__()
        self.count = count
        self.proj = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, count * context))
        self.norm = nn.LayerNorm(context)

    @classmethod
    def of(cls, state: State) -> "Identity":
        return cls(*cls._sizes(state))

    @staticmethod
    def _sizes(state: State) -> tuple[int, int, int, int]:
        hidden, width = state["proj.0.weight"].shape
        context = len(state["norm.weight"])
        return width, hidden, state["proj.2.weight"].shape[0] // context, context

    def forward(self, features: Features) -> Tensor:
        return self.norm(self.proj(features.embedding).unflatten(-1, (self.count, -1)))


class IdentityPlus(Identity):
    """FaceID Plus: the identity's tokens look at the face's hidden states; PlusV2 adds that to what they were."""

    def __init__(self, sizes: tuple[int, int, int, int], perceiver: "Perceiver", shortcut: bool):
        super().__init__(*sizes)
        self.perceiver_resampler = perceiver
        self.shortcut = shortcut

    @classmethod
    def of(cls, state: State) -> "IdentityPlus":
        return cls(cls._sizes(state), Perceiver.of(_within(state, "perceiver_resampler.")), False)

    def forward(self, features: Features) -> Tensor:
        tokens = super().forward(features)
        seen = self.perceiver_resampler(tokens, features.states)
        return tokens + features.shortcut * seen if self.shortcut else seen


class IdentityPlusV2(IdentityPlus):
    """FaceID PlusV2 has the weights' shapes of Plus, and a shortcut."""

    @classmethod
    def of(cls, state: State) -> "IdentityPlusV2":
        return cls(cls._sizes(state), Perceiver.of(_within(state, "perceiver_resampler.")), True)


class Perceiver(nn.Module):
    """Tokens [R, N, width] attend to states [R, M, states' width] and to themselves, then pass to the context."""

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
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
        return cls(
            states,
            width,
            state["layers.0.0.to_q.weight"].shape[0] // HEAD,
            depth,
            state["layers.0.1.1.weight"].shape[0],
            state["proj_out.weight"].shape[0],
            **more,
        )

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        states = self.proj_in(states)
        for look, feed in self.layers:
            tokens = tokens + look(tokens, states)
            tokens = tokens + feed(tokens)
        return self.norm_out(self.proj_out(tokens))


class Resampler(Perceiver):
    """Plus, Portrait-unnorm, InstantID: learnt tokens look at states, or at an embedding as at one state."""

    def __init__(self, *sizes: int, count: int):
        super().__init__(*sizes)
        self.latents = nn.Parameter(torch.zeros(1, count, sizes[1]))

    @classmethod
    def of(cls, state: State) -> "Resampler":
        return super().of(state, count=state["latents"].shape[1])

    def forward(self, features: Features) -> Tensor:
        states = features.embedding[:, None] if features.states is None else features.states
        return super().forward(self.latents.expand(len(states), -1, -1), states)


class CrossAttentionBlock(nn.Module):
    """Tokens [R, N, width] attend to states [R, M, width] and to themselves."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)  # of what is looked at
        self.norm2 = nn.LayerNorm(width)  # of what looks
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


def _within(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
