"""The triplet cross-attention of one layer: plain tensors in, plain tensors out, the same under every host."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

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


class LocationBias(Protocol):
    """Which of a face's `tokens` each place hears, and how much of it is face."""

    tokens: int

    def __call__(self, places: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """For a layer's n places: the m tokens that each hears [1 or rows, n, m] int64, scores [1 or rows, n, m] that
        are added to those of q kᵀ/√d, and weights [1 or rows, n, 1]; both in the layer's dtype."""

    def everywhere(self, places: int, dtype: torch.dtype) -> Tensor:
        """The same scores for all tokens, [1 or rows, n, tokens], −∞ for those that a place does not hear."""


def attend_to_nearest(q: Tensor, k: Tensor, v: Tensor, heads: int, scores: Tensor) -> Tensor:
    """softmax(q kᵀ/√d + scores) v per head, each query with keys and values of its own: q [B, n, C], k and v
    [1 or B, n, m, C], scores [1 or B, n, m] → [B, n, C]."""
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    seen = (k * (q * q.shape[-1] ** -0.5)[:, :, None]).sum(-1) + scores[..., None]
    return (v * seen.softmax(2)[..., None]).sum(2).flatten(2)


def attend_with_bias(q: Tensor, k: Tensor, v: Tensor, heads: int, scores: Tensor) -> Tensor:
    """`attend` with `scores` [1 or B, n, N] added, alike in all heads; torch's own: not every fast one has them."""
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
    """What one stream of one person brings to one layer, for the rows `start … start + rows` of the batch.

    `k` and `v` are [1 or rows, N, C]; `gate` weighs the features, [C]; `mask` weighs the places, [1, n, 1] or None;
    `kappa` ≥ 0 is how much of what the text already says is taken out, `projection` how that is found (PROJECTIONS);
    `where`, if any, says which tokens each place hears, and how much (see Where), of whose number N is a multiple; then
    `k` and `v` may be the tokens themselves and `project` make keys and values of them; `router` [4], if any, weighs
    each place anew (see `_route`); the person's other stream is the one of the same `person` for the same rows.
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
    router: Tensor | None = None
    person: int = 0
    where: LocationBias | None = None
    project: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


def triplet_attention(
    q: Tensor, text: Tensor, streams: list[LayerStream], heads: int, attend: Attend, writable: bool = True
) -> Tensor:
    """O = A_t + Σ_s gate_s · ρ_s · m_s ⊙ (A_s − κ_s · proj_{A_t}(A_s)), before the output projection.

    `q` [B, n, C] are the queries and `text` [B, n, C] the text's own attention A_t. Without gradients the sum is
    written into `text` if that is `writable`. Rows that no stream covers are returned as they were.
    """
    in_place = not torch.is_grad_enabled()
    # κ and the router compare with the text's own attention, so that has to stay as it was.
    compared = any(stream.kappa is not None or stream.router is not None for stream in streams)
    out = text.clone() if in_place and (compared or not writable) else text
    attended: Iterable[Tensor] = (_attended(q[_span(stream)], stream, heads, attend) for stream in streams)
    if any(stream.router is not None for stream in streams):  # it looks at all at once; else one by one will do
        attended = list(attended)
    for stream, seen in zip(streams, attended):
        span = _span(stream)
        weight = stream.gate if stream.mask is None else stream.gate * stream.mask
        if stream.where is not None:
            weight = weight * stream.where(q.shape[1], q.dtype)[2]
        if stream.router is not None:
            weight = weight * _route(stream, seen, text[span], _other(stream, streams, attended))
        if stream.kappa is not None:
            seen = seen - stream.kappa * _overlap_with_text(seen, text[span], q[span], stream, heads)
        if in_place:
            out[span].addcmul_(seen, weight)
        else:
            heard = seen * weight
            if stream.watch is not None:
                stream.watch(heard)
            out = out + (heard if stream.rows == len(q) else F.pad(heard, (0, 0, 0, 0, span.start, len(q) - span.stop)))
    return out


def _attended(q: Tensor, stream: LayerStream, heads: int, attend: Attend) -> Tensor:
    if stream.where is None:
        return attend(q, *(_expand(x, stream.rows) for x in (stream.k, stream.v)), heads)
    near, scores, _ = stream.where(q.shape[1], q.dtype)
    tokens = stream.where.tokens
    times = stream.k.shape[1] // tokens  # several references' tokens are heard alike
    if near[0].numel() < tokens:  # few places: all that they hear is less than all tokens
        near = torch.cat([near + tokens * part for part in range(times)], -1)
        heard = [gather_tokens(x, near) for x in ((stream.k,) if stream.project else (stream.k, stream.v))]
        k, v = stream.project(*heard) if stream.project else heard
        return attend_to_nearest(q, k, v, heads, scores.repeat(1, 1, times))
    k, v = stream.project(stream.k) if stream.project else (stream.k, stream.v)
    scores = stream.where.everywhere(q.shape[1], q.dtype)
    scores = scores if times == 1 else scores.repeat(1, 1, times)
    return attend_with_bias(q, _expand(k, stream.rows), _expand(v, stream.rows), heads, scores)


def _span(stream: LayerStream) -> slice:
    return slice(stream.start, stream.start + stream.rows)


def _other(stream: LayerStream, streams: list[LayerStream], seen: list[Tensor]) -> Tensor | None:
    """What the person's other stream hears in the same rows."""
    return next(
        (
            x
            for other, x in zip(streams, seen)
            if other is not stream
            and (other.person, other.start, other.rows) == (stream.person, stream.start, stream.rows)
        ),
        None,
    )


def _route(stream: LayerStream, seen: Tensor, text: Tensor, other: Tensor | None) -> Tensor:
    """ρ = 1 + tanh(uᵀφ + b) in 0…2 for every place, [B, n, 1]; `router` is (u, b).

    φ are the cosines, over all features and in fp32, of the text's attention with the stream's own, of the text's
    with the other stream's, and of the two streams'; 0 where there is no other one, or nothing is heard.
    """
    u, b = stream.router[:3].float(), stream.router[3].float()
    told = b + u[0] * _cosine(text, seen)
    if other is not None:
        told = told + u[1] * _cosine(text, other) + u[2] * _cosine(seen, other)
    return (1 + told.tanh()).to(seen.dtype)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.float(), b.float(), dim=-1, eps=1e-6)[..., None]


def _expand(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else x.expand(rows, -1, -1)


def _overlap_with_text(seen: Tensor, text: Tensor, q: Tensor, stream: LayerStream, heads: int) -> Tensor:
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
