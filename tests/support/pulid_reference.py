"""PuLID's encoders, written from its authors' code (ToTheBeginning/PuLID)."""

import torch
from decoupled import Reference
from torch.nn import functional as F


def stack(state: dict, name: str, x):
    for linear, norm in ((0, 1), (3, 4)):
        x = F.linear(x, state[f"{name}.{linear}.weight"], state[f"{name}.{linear}.bias"])
        x = F.layer_norm(x, x.shape[-1:], state[f"{name}.{norm}.weight"], state[f"{name}.{norm}.bias"])
        x = torch.where(x > 0, x, 0.01 * x)
    return F.linear(x, state[f"{name}.6.weight"], state[f"{name}.6.bias"])


def identity_of(recognised, vision):
    """The identity vector; `vision` is the tower's embedding before it is scaled to length 1, and zero for zeros."""
    norm = vision.pow(2).sum(-1, keepdim=True).sqrt()
    return torch.cat([recognised, torch.where(norm > 0, vision / norm, vision)], 1)


def encoded(state: dict, recognised, vision, states) -> torch.Tensor:
    """Tokens as pulid/encoders.py has them."""
    tokens = [stack(state, "body", identity_of(recognised, vision)).reshape(len(recognised), 5, -1)]
    for i, x in enumerate(states):
        tokens.append(
            stack(state, f"mapping_{i}", x[:, :1]) + stack(state, f"mapping_patch_{i}", x[:, 1:]).mean(1, keepdim=True)
        )
    return torch.cat(tokens, 1)


def encoded_v11(state: dict, recognised, vision, states) -> torch.Tensor:
    """Tokens as pulid/encoders_transformer.py has them."""

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    queries = state["latents"].shape[1]
    x = stack(state, "id_embedding_mapping", identity_of(recognised, vision)).reshape(len(recognised), 5, -1)
    latents = torch.cat([state["latents"].repeat(len(x), 1, 1), x], 1)
    for i in range(5):
        context = torch.cat([x, stack(state, f"mapping_{i}", states[i])], 1)
        for layer in (f"layers.{2 * i}", f"layers.{2 * i + 1}"):
            own = norm(f"{layer}.0.norm2", latents)
            k, v = F.linear(
                torch.cat([norm(f"{layer}.0.norm1", context), own], 1), state[f"{layer}.0.to_kv.weight"]
            ).chunk(2, -1)
            heads = k.shape[-1] // 64
            latents = latents + F.linear(
                Reference.attend(F.linear(own, state[f"{layer}.0.to_q.weight"]), k, v, heads),
                state[f"{layer}.0.to_out.weight"],
            )
            hidden = F.gelu(F.linear(norm(f"{layer}.1.0", latents), state[f"{layer}.1.1.weight"]))
            latents = latents + F.linear(hidden, state[f"{layer}.1.3.weight"])
    return latents[:, :queries] @ state["proj_out"]
