"""The resampler over an embedding that InstantID and InfiniteYou have, a second writing of it."""

import torch
from torch.nn import functional as F


def resampled(state: dict, embedding):
    """Tokens as ip_adapter/resampler.py has them."""

    def linear(name, x):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    projected = linear("proj_in", embedding[:, None])
    tokens = state["latents"].repeat(len(embedding), 1, 1)
    for i in range(4):
        name = f"layers.{i}"
        x, own = norm(f"{name}.0.norm1", projected), norm(f"{name}.0.norm2", tokens)
        k, v = linear(f"{name}.0.to_kv", torch.cat([x, own], 1)).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (-1, 64)).transpose(1, 2) for y in (linear(f"{name}.0.to_q", own), k, v))
        weights = (q * 64**-0.25 @ (k * 64**-0.25).transpose(-2, -1)).softmax(-1)
        tokens = tokens + linear(f"{name}.0.to_out", (weights @ v).transpose(1, 2).flatten(2))
        hidden = F.gelu(linear(f"{name}.1.1", norm(f"{name}.1.0", tokens)))
        tokens = tokens + linear(f"{name}.1.3", hidden)
    return norm("norm_out", linear("proj_out", tokens))
