"""The triplet cross-attention of one layer: plain tensors in and out, the same code under every host."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .stream_module import CROSS_ATTENTION

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]

# How a stream is projected onto the text's attention: at each position, over the features of a head; for each feature,
# over all positions (PuLID's `ortho`); or as `ortho`, but weaker where a position attends to the first five tokens
# (PuLID's `ortho_v2`).
PROJECTIONS = ("feature", "token", "token_v2")
IDENTITY_TOKENS = 5  # PuLID's first tokens, which come from the recogniser


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ/√d) v per head; q [B, n, C], k and v [B, N, C] → [B, n, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class LocationBias(Protocol):
    """The subset of a face's `tokens` that each position attends to, and the weight of the face at each position."""

    tokens: int

    def __call__(self, positions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """For a layer of n positions: the m tokens that each position attends to [1 or rows, n, m] int64, a bias on the
        scores q kᵀ/√d [1 or rows, n, m], and weights [1 or rows, n, 1]. Bias and weights are in `dtype`."""

    def everywhere(self, positions: int, dtype: torch.dtype) -> Tensor:
        """The bias over all tokens, [1 or rows, n, tokens]; −∞ for tokens that a position does not attend to."""


def attend_to_nearest(q: Tensor, k: Tensor, v: Tensor, heads: int, scores: Tensor) -> Tensor:
    """softmax(q kᵀ/√d + scores) v per head, where each query has its own keys and values: q [B, n, C], k and v
    [1 or B, n, m, C], scores [1 or B, n, m] → [B, n, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    logits = (k * (q * q.shape[-1] ** -0.5)[:, :, None]).sum(-1) + scores[..., None]
    return (v * logits.softmax(2)[..., None]).sum(2).flatten(2)


def attend_with_bias(q: Tensor, k: Tensor, v: Tensor, heads: int, scores: Tensor) -> Tensor:
    """`attend` with `scores` [1 or B, n, N] added in all heads. It uses torch's attention, which takes a bias."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scores[:, None]).transpose(1, 2).flatten(2)


def gather_tokens(x: Tensor, near: Tensor) -> Tensor:
    """x [1 or B, N, C] at `near` [1 or B, n, m] int64 → [1 or B, n, m, C]."""
    rows = max(len(x), len(near))
    if rows > 1:
        near = near + x.shape[1] * (torch.arange(rows, device=x.device) % len(x))[:, None, None]
    return F.embedding(near, x.flatten(0, 1))


@dataclass(frozen=True)
class LayerStream:
    """One stream of one person in one layer, for the rows `start … start + rows` of the batch.

    k, v        [1 or rows, N, C]; with `project`, the tokens to project
    gate        [C], one weight per feature
    kappa       ≥ 0, the share of the stream's attention along the text's that is removed
    mask        [1 or rows, n, 1], one weight per position
    watch       called with the weighted result [rows, n, C] while gradients are enabled
    projection  how the stream is projected onto the text's attention, one of PROJECTIONS
    router      [4], weights each position by the agreement of the attentions (`_route`)
    person      number of the person; its other stream has the same number and rows
    location    which tokens each position attends to; N is a multiple of their number
    project     tokens [..., context] → keys and values [..., C]
    place       where in the layer the stream acts (adapter/stream_module.py)
    q_factor    [C], a factor on the layer's queries
    part        the part of the stream that runs in this layer at every step; k and v of a residual cell have its inner
                width (adapter/cells.py)
    tokens      [1 or rows, N, context], the tokens of k and v, for a ControlNet that reads them; None: not kept
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
    router: Tensor | None = None
    person: int = 0
    location: LocationBias | None = None
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    place: str = CROSS_ATTENTION
    q_factor: Tensor | None = None
    part: nn.Module | None = None
    tokens: Tensor | None = None


def triplet_attention(
    q: Tensor, text: Tensor, streams: list[LayerStream], heads: int, attend: Attend, writable: bool = True
) -> Tensor:
    """O = A_t + Σ_s gate_s · ρ_s · m_s ⊙ (A_s − κ_s · proj_{A_t}(A_s)), before the output projection.

    `q` [B, n, C] are the queries and `text` [B, n, C] the text's own attention A_t. Without gradients, the sum is
    written into `text` if it is `writable`. Rows without a stream are returned unchanged.
    """
    in_place = not torch.is_grad_enabled()
    # κ and the router compare with the text's own attention, so it must not change.
    compared = any(stream.kappa is not None or stream.router is not None for stream in streams)
    out = text.clone() if in_place and (compared or not writable) else text
    each: Iterable[Tensor] = (attended(_queries(q, stream), stream, heads, attend) for stream in streams)
    if any(stream.router is not None for stream in streams):  # a router compares all streams; else save memory
        each = list(each)
    for stream, attention in zip(streams, each):
        span = span_of(stream)
        weight = stream.gate if stream.mask is None else stream.gate * stream.mask
        if stream.location is not None:
            weight = weight * stream.location(q.shape[1], q.dtype)[2]
        if stream.router is not None:
            weight = weight * _route(stream, attention, text[span], _other(stream, streams, each))
        if stream.kappa is not None:
            shared = overlap(attention, text[span], _queries(q, stream), stream, heads)
            attention = attention - stream.kappa * shared
        if in_place:
            out[span].addcmul_(attention, weight)
        else:
            weighted = attention * weight
            if stream.watch is not None:
                stream.watch(weighted)
            if stream.rows != len(q):
                weighted = F.pad(weighted, (0, 0, 0, 0, span.start, len(q) - span.stop))
            out = out + weighted
    return out


def _queries(q: Tensor, stream: LayerStream) -> Tensor:
    """The queries of the stream's rows."""
    q = q[span_of(stream)]
    return q if stream.q_factor is None else q * stream.q_factor


def attended(q: Tensor, stream: LayerStream, heads: int, attend: Attend) -> Tensor:
    """The attention [B, n, C] of the queries to a stream's tokens, near each position if their location is known."""
    if stream.location is None:
        return attend(q, *(expand(x, stream.rows) for x in (stream.k, stream.v)), heads)
    near, scores, _ = stream.location(q.shape[1], q.dtype)
    tokens = stream.location.tokens
    times = stream.k.shape[1] // tokens  # references side by side, with the same bias
    if near[0].numel() < tokens:  # few positions, which together attend to only some tokens
        near = torch.cat([near + tokens * part for part in range(times)], -1)
        gathered = [gather_tokens(x, near) for x in ((stream.k,) if stream.project else (stream.k, stream.v))]
        k, v = stream.project(*gathered) if stream.project else gathered
        return attend_to_nearest(q, k, v, heads, scores.repeat(1, 1, times))
    k, v = stream.project(stream.k) if stream.project else (stream.k, stream.v)
    scores = stream.location.everywhere(q.shape[1], q.dtype)
    scores = scores if times == 1 else scores.repeat(1, 1, times)
    return attend_with_bias(q, expand(k, stream.rows), expand(v, stream.rows), heads, scores)


def span_of(stream: LayerStream) -> slice:
    return slice(stream.start, stream.start + stream.rows)


def _other(stream: LayerStream, streams: list[LayerStream], attended: list[Tensor]) -> Tensor | None:
    """The attention of the person's other stream in the same rows."""
    return next(
        (
            x
            for other, x in zip(streams, attended)
            if other is not stream
            and (other.person, other.start, other.rows) == (stream.person, stream.start, stream.rows)
        ),
        None,
    )


def _route(stream: LayerStream, own: Tensor, text: Tensor, other: Tensor | None) -> Tensor:
    """ρ = 1 + tanh(uᵀφ + b) in 0…2 for every position, [B, n, 1]; `router` is (u, b).

    φ holds three cosines of attentions over all features, in fp32: text and this stream, text and the other stream,
    this stream and the other. A cosine is 0 if the other stream is missing or an attention in it is 0.
    """
    u, b = stream.router[:3].float(), stream.router[3].float()
    logit = b + u[0] * _cosine(text, own)
    if other is not None:
        logit = logit + u[1] * _cosine(text, other) + u[2] * _cosine(own, other)
    return (1 + logit.tanh()).to(own.dtype)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.float(), b.float(), dim=-1, eps=1e-6)[..., None]


def expand(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else x.expand(rows, -1, -1)


def overlap(own: Tensor, text: Tensor, q: Tensor, stream: LayerStream, heads: int) -> Tensor:
    """The part of a stream's attention [B, n, C] along the text's (in a DiT, of a residual along the hidden states)."""
    if stream.projection == "feature":
        return _projection(own, text, heads)
    shared = _token_projection(own, text)
    return shared if stream.projection == "token" else shared * (1 - _identity_mass(q, stream.k, heads)).to(shared)


def _token_projection(x: Tensor, onto: Tensor) -> Tensor:
    """The part of `x` [B, n, C] along `onto`, per feature over the positions n, in fp32 (PuLID, `ortho`)."""
    a, b = x.float(), onto.float()
    share = (a * b).sum(-2, keepdim=True) / (b * b).sum(-2, keepdim=True).clamp(min=1e-12)
    return (share * b).to(x.dtype)


def _identity_mass(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """The attention of each position to the first five tokens, averaged over the heads: [B, n, 1] in 0…1, fp32.

    As in PuLID's `ortho_v2`, the scores are not divided by √d (ToTheBeginning/PuLID, attention_processor.py).
    """
    q, k = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
    scores = (q @ k.transpose(-2, -1)).softmax(-1)
    return scores[..., :IDENTITY_TOKENS].sum(-1).mean(1)[..., None]


def _projection(x: Tensor, onto: Tensor, heads: int) -> Tensor:
    """The part of `x` along `onto`, per head over its features, in fp32; 0 if `onto` is 0."""
    a = x.unflatten(-1, (heads, -1)).float()
    b = onto.unflatten(-1, (heads, -1)).float()
    share = (a * b).sum(-1, keepdim=True) / (b * b).sum(-1, keepdim=True).clamp(min=1e-12)
    return (share * b).flatten(2).to(x.dtype)
