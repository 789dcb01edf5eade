"""PuLID's identity encoders for SDXL, with the keys of its published files.

Guo et al., "PuLID: Pure and Lightning ID Customization via Contrastive Alignment", 2024; ToTheBeginning/PuLID,
pulid/encoders.py (v1) and pulid/encoders_transformer.py (v1.1).
"""

import torch
from torch import Tensor, nn

from ..adapter.features import Features
from .projectors import HEAD, CrossAttentionBlock, feed_forward

RECOGNISER_WIDTH = 512  # antelopev2's embedding, raw
VISION_WIDTH = 768  # EVA02-CLIP-L-336's embedding, of length 1
STATES = 5  # hidden states of the tower, of 1024 features
# Tokens of nothing beside the identity's, by projection: the modes "fidelity" and "extremely style" (app.py; 1.1: 20).
NOTHING = {"token_v2": 8, "token": 16}
NOTHING_V11 = {"token_v2": 20, "token": 20}


class IdentityEncoder(nn.Module):
    """Features with an `identity` [R, 1280] and five states [R, N, states_width] → tokens [R, 2 × 5, context].

    The first five tokens come from the identity, one more from each depth of the vision tower: its class token and the
    mean of its patches. The unconditional tokens are those of zeros, which are not zero.
    """

    def __init__(self, width: int = RECOGNISER_WIDTH + VISION_WIDTH, states_width: int = 1024, context: int = 2048):
        super().__init__()
        self.context = context
        self.body = _stack(width, 1024, 5 * context)
        for depth in range(STATES):
            setattr(self, f"mapping_{depth}", _stack(states_width, 1024, context))
            setattr(self, f"mapping_patch_{depth}", _stack(states_width, 1024, context))

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "IdentityEncoder":
        context, states_width = state["mapping_0.6.weight"].shape[0], state["mapping_0.0.weight"].shape[1]
        return cls(state["body.0.weight"].shape[1], states_width, context)

    def forward(self, features: Features) -> Tensor:
        tokens = [self.body(features.embedding).unflatten(-1, (5, self.context))]
        for depth, state in enumerate(features.states):
            whole, patches = getattr(self, f"mapping_{depth}"), getattr(self, f"mapping_patch_{depth}")
            tokens.append(whole(state[:, :1]) + patches(state[:, 1:]).mean(1, keepdim=True))
        return torch.cat(tokens, 1)


class IdentityFormer(nn.Module):
    """PuLID v1.1: what IdentityEncoder reads → tokens [R, 32, context].

    Learnt tokens, with five of the identity behind them, look at the identity and at one depth of the tower after the
    other, two layers for each.
    """

    def __init__(self, width: int, states_width: int, inner: int, count: int, depth: int, context: int):
        super().__init__()
        self.inner = inner
        self.latents = nn.Parameter(torch.zeros(1, count, inner))
        self.proj_out = nn.Parameter(torch.zeros(inner, context))
        self.layers = nn.ModuleList(
            nn.ModuleList([CrossAttentionBlock(inner, inner // HEAD), feed_forward(inner, 4 * inner)])
            for _ in range(depth)
        )
        for state in range(STATES):
            setattr(self, f"mapping_{state}", _stack(states_width, 1024, inner))
        self.id_embedding_mapping = _stack(width, 1024, 5 * inner)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "IdentityFormer":
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
        return cls(
            state["id_embedding_mapping.0.weight"].shape[1],
            state["mapping_0.0.weight"].shape[1],
            state["latents"].shape[2],
            state["latents"].shape[1],
            depth,
            state["proj_out"].shape[1],
        )

    def forward(self, features: Features) -> Tensor:
        known = self.id_embedding_mapping(features.embedding).unflatten(-1, (5, self.inner))
        tokens = torch.cat([self.latents.expand(len(known), -1, -1), known], 1)
        each = len(self.layers) // STATES
        for depth, state in enumerate(features.states):
            seen = torch.cat([known, getattr(self, f"mapping_{depth}")(state)], 1)
            for look, feed in self.layers[each * depth : each * (depth + 1)]:
                tokens = tokens + look(tokens, seen)
                tokens = tokens + feed(tokens)
        return tokens[:, : self.latents.shape[1]] @ self.proj_out


def identity(recognised: Tensor, seen: Tensor) -> Tensor:
    """Raw embedding [B, 512] and the tower's embedding [B, 768] of any length → what the encoder reads, [B, 1280]."""
    return torch.cat([recognised, nn.functional.normalize(seen.to(recognised), dim=-1)], -1)


def from_upstream(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of PuLID's own file (pulid_v1.bin) to those of IP-Adapter; others stay as they are."""
    renames = (
        ("id_adapter.", "image_proj."),
        ("id_adapter_attn_layers.", "ip_adapter."),
        (".id_to_k.", ".to_k_ip."),
        (".id_to_v.", ".to_v_ip."),
    )
    renamed = {}
    for key, value in state.items():
        for old, new in renames:
            key = key.replace(old, new, 1)
        renamed[key] = value
    return renamed


def _stack(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, out),
    )
