"""Residual cells: an attention of its own after a block of a DiT, on the hidden states of the image tokens.

x ← x + Σ_s gate_s · m_s ⊙ (R_s − κ_s · proj_x(R_s)),  R_s = W_o softmax(Q K_sᵀ/√d) V_s,  Q = W_q LN(x)

PuLID-FLUX (Guo et al. 2024) and WithAnyone (Xu et al. 2025) are the case κ = 0.
"""

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from .attention import Attend, LayerStream, attended, overlap, span_of
from .stream_module import AFTER_BLOCK, Extra, Projection, TrainableStream


class Casting:
    """Layers that compute in the dtype and on the device of their input."""

    class Linear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))

    class LayerNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x), self.bias.to(x), self.eps)


class CellQueries(nn.Module):
    """The part of a cell that every step runs: hidden states → queries, and attention → residual.

    Its layers are `operations.Linear` and `operations.LayerNorm`, so that a host can use its own.
    """

    def __init__(self, width: int, inner: int, heads: int, dtype: torch.dtype, operations: ModuleType | type = Casting):
        super().__init__()
        self.heads = heads
        self.norm = operations.LayerNorm(width, dtype=dtype)
        self.to_q = operations.Linear(width, inner, bias=False, dtype=dtype)
        self.to_out = operations.Linear(inner, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor, stream: LayerStream, attend: Attend) -> tuple[Tensor, Tensor]:
        """x [B, n, width] → residual [B, n, width] and queries [B, n, inner]; k and v of `stream` have width inner."""
        q = self.to_q(self.norm(x))
        return self.to_out(attended(q, stream, self.heads, attend)), q


class CellKeys(nn.Module):
    """The part of a cell that a face runs once: tokens → keys and values."""

    def __init__(self, context: int, inner: int, dtype: torch.dtype):
        super().__init__()
        self.norm = Casting.LayerNorm(context, dtype=dtype)
        self.to_kv = Casting.Linear(context, 2 * inner, bias=False, dtype=dtype)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [..., context] → k, v [..., inner], on the tokens' device and in their dtype."""
        k, v = self.to_kv(self.norm(tokens)).chunk(2, -1)
        return k, v


class StreamCells(TrainableStream):
    """One stream's cells.

    knots  number of noise levels between which a gate is interpolated
    """

    place = AFTER_BLOCK

    def __init__(
        self,
        layer_map: LayerMap,
        at: tuple[int, ...],
        context: int,
        inner: int,
        heads: int,
        dtype: torch.dtype,
        knots: int = 1,
    ):
        super().__init__(layer_map, at)
        self.sizes = (layer_map.layers[0].width, inner, heads, dtype)
        self.keys = nn.ModuleList(CellKeys(context, inner, dtype) for _ in at)
        self.queries = nn.ModuleList(CellQueries(*self.sizes) for _ in at)
        self.add_gates(layer_map, knots)

    @property
    def every_step(self) -> nn.Module:
        return self.queries

    def use_operations(self, operations: ModuleType | type) -> nn.Module:
        with torch.device("meta"):
            queries = nn.ModuleList(CellQueries(*self.sizes, operations) for _ in self.at)
        queries.load_state_dict(self.queries.state_dict(), assign=True)
        self.queries = queries.requires_grad_(False)
        return queries

    def parts(self) -> dict[int, nn.Module]:
        """The cells' queries by the index of their block."""
        return dict(zip(self.at, self.queries))

    def projections(self, extra: Extra) -> list[Projection | None]:
        cells = dict(zip(self.at, self.keys))
        return [cells.get(index) for index in range(self.count)]

    def low_rank_layers(self) -> list[nn.Linear]:
        """None: a cell begins with random weights and is trained whole."""
        return []

    def last_layers(self) -> list[nn.Linear]:
        return [cell.to_out for cell in self.queries]


def add_residuals(
    hidden: Tensor, start: int, count: int, streams: list[LayerStream], heads: int, attend: Attend
) -> Tensor:
    """Add every stream's residual to the tokens start … start + count of `hidden` [B, n, C]; `heads` are the base's.

    All residuals are computed from the same tokens, so the order of people and streams does not matter. Without
    gradients, the sum is written into `hidden`.
    """
    x = hidden[:, start : start + count]
    residuals = [_residual(x[span_of(stream)], stream, heads, attend) for stream in streams]
    in_place = not torch.is_grad_enabled()
    out = x if in_place else x.clone()
    for stream, residual in zip(streams, residuals):
        weight = stream.gate if stream.mask is None else stream.gate * stream.mask
        if stream.location is not None:
            weight = weight * stream.location(count, x.dtype)[2]
        if stream.watch is None:
            out[span_of(stream)].addcmul_(residual, weight)
        else:
            weighted = residual * weight
            stream.watch(weighted)
            out[span_of(stream)] += weighted
    return hidden if in_place else torch.cat([hidden[:, :start], out, hidden[:, start + count :]], 1)


def _residual(x: Tensor, stream: LayerStream, heads: int, attend: Attend) -> Tensor:
    cell = stream.part
    residual, q = cell(x, stream, attend)
    if stream.kappa is None:
        return residual
    shared = overlap(residual, x, q, stream, heads if stream.projection == "feature" else cell.heads)
    return residual - stream.kappa * shared
