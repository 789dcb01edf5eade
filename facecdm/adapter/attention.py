"""The triplet cross-attention of one layer: plain tensors in, plain tensors out, the same under every host."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# What the text already says of a stream: at each place over the features of a head; for each feature over all places
# (PuLID's `ortho`); or the same, kept where a place listens to the first five tokens (PuLID's `ortho_v2`).
PROJECTIONS = ("feature", "token", "token_v2")
IDENTITY_TOKENS = 5  # of PuLID, which come from the recogniser and stand first


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ/√d) v per head; q [B, n, C], k and v [B, N, C] → [B, n, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class LayerStream:
    """What one stream of one person brings to one layer, for the rows `start … start + rows` of the batch.

    `k` and `v` are [1 or rows, N, C]; `gate` weighs the features, [C]; `mask` weighs the places, [1, n, 1] or None;
    `kappa` ≥ 0 is how much of what the text already says is taken out, `projection` how that is found (PROJECTIONS);
    `watch`, if any, is shown the weighted result [rows, n, C] while gradients are enabled.
    """

    start: int
    rows: int
    k: Tensor
    v: Tensor
    gate: Tensor
    kappa: Tensor | None = None
    mask: Tensor | None = None
    watch: Callable[[Tensor], None] | None = None
    projection: str = "feature"


def triplet_attention(q: Tensor, text: Tensor, streams: list[LayerStream], heads: int, attend: Attend) -> Tensor:
    """O = A_t + Σ_s gate_s · m_s ⊙ (A_s − κ_s · proj_{A_t}(A_s)), before the output projection.

    `q` [B, n, C] are the queries and `text` [B, n, C] the text's own attention A_t; where no gradient is wanted,
    the sum is written into it. Rows that no stream covers come out as they were.
    """
    in_place = not torch.is_grad_enabled()
    # κ compares with the text's own attention, so that has to stay as it was.
    out = text.clone() if in_place and any(stream.kappa is not None for stream in streams) else text
    for stream in streams:
        span = slice(stream.start, stream.start + stream.rows)
        seen = attend(q[span], _expand(stream.k, stream.rows), _expand(stream.v, stream.rows), heads)
        if stream.kappa is not None:
            seen = seen - stream.kappa * _already_said(seen, text[span], q[span], stream, heads)
        weight = stream.gate if stream.mask is None else stream.gate * stream.mask
        if in_place:
            out[span].addcmul_(seen, weight)
        else:
            heard = seen * weight
            if stream.watch is not None:
                stream.watch(heard)
            out = out + (heard if stream.rows == len(q) else
                         F.pad(heard, (0, 0, 0, 0, span.start, len(q) - span.stop)))
    return out


def _expand(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else x.expand(rows, -1, -1)


def _already_said(seen: Tensor, text: Tensor, q: Tensor, stream: LayerStream, heads: int) -> Tensor:
    if stream.projection == "feature":
        return _projection(seen, text, heads)
    shared = _token_projection(seen, text)
    return shared if stream.projection == "token" else shared * (1 - _identity_mass(q, stream.k, heads)).to(shared)


def _token_projection(x: Tensor, onto: Tensor) -> Tensor:
    """The part of `x` [B, n, C] along `onto`, per feature over the places n, in fp32 (PuLID, `ortho`)."""
    a, b = x.float(), onto.float()
    share = (a * b).sum(-2, keepdim=True) / (b * b).sum(-2, keepdim=True).clamp(min=1e-12)
    return (share * b).to(x.dtype)


def _identity_mass(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """[B, n, 1] in 0…1, fp32: how much each place listens to the first five tokens, mean over the heads.

    As PuLID's `ortho_v2` has it: the scores are not divided by √d (ToTheBeginning/PuLID, attention_processor.py).
    """
    q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
    scores = (q @ k.transpose(-2, -1)).softmax(-1)
    return scores[..., :IDENTITY_TOKENS].sum(-1).mean(1)[..., None]


def _projection(x: Tensor, onto: Tensor, heads: int) -> Tensor:
    """The part of `x` along `onto`, per head over its features, in fp32; 0 where `onto` is 0."""
    a = x.unflatten(-1, (heads, -1)).float()
    b = onto.unflatten(-1, (heads, -1)).float()
    share = (a * b).sum(-1, keepdim=True) / (b * b).sum(-1, keepdim=True).clamp(min=1e-12)
    return (share * b).flatten(2).to(x.dtype)
