"""Residual cells: an attention of its own after a block of a DiT, on the hidden states of the image tokens.

x ← x + Σ_s gate_s · m_s ⊙ (R_s − κ_s · proj_x(R_s)),  R_s = W_o softmax(Q K_sᵀ/√d) V_s,  Q = W_q LN(x)

PuLID-FLUX (Guo et al. 2024) and WithAnyone (Xu et al. 2025) are the case κ = 0.
"""

from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from .attention import Attend, LayerStream, expand, overlap, span_of
from .gates import NoiseGate


class CellQueries(nn.Module):
    """The part of a cell that every step runs: hidden states → queries, and attention → residual.

    Its layers are `operations.Linear` and `operations.LayerNorm`, so that a host can use its own.
    """

    def __init__(self, width: int, inner: int, heads: int, dtype: torch.dtype, operations: ModuleType | type = nn):
        super().__init__()
        self.heads = heads
        self.norm = operations.LayerNorm(width, dtype=dtype)
        self.to_q = operations.Linear(width, inner, bias=False, dtype=dtype)
        self.to_out = operations.Linear(inner, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """x [B, n, width], k and v [B, N, inner] → residual [B, n, width] and queries [B, n, inner]."""
        q = self.to_q(self.norm(x))
        return self.to_out(attend(q, k, v, self.heads)), q


class CellKeys(nn.Module):
    """The part of a cell that a face runs once: tokens → keys and values."""

    def __init__(self, context: int, inner: int, dtype: torch.dtype):
        super().__init__()
        self.norm = nn.LayerNorm(context, dtype=dtype)
        self.to_kv = nn.Linear(context, 2 * inner, bias=False, dtype=dtype)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, context] → k, v [B, N, inner], on the tokens' device and in their dtype."""
        norm = F.layer_norm(tokens, tokens.shape[-1:], self.norm.weight.to(tokens), self.norm.bias.to(tokens))
        k, v = F.linear(norm, self.to_kv.weight.to(tokens)).chunk(2, -1)
        return k, v


class StreamCells(nn.Module):
    """One stream's cells, with the interface of `StreamLayers`.

    at  the blocks that have a cell, as indices in the layer map
    """

    router = None

    def __init__(
        self, layer_map: LayerMap, at: tuple[int, ...], context: int, inner: int, heads: int, dtype: torch.dtype
    ):
        super().__init__()
        self.at, self.sizes = at, (layer_map.layers[0].width, inner, heads, dtype)
        self.count = len(layer_map.layers)
        self.keys = nn.ModuleList(CellKeys(context, inner, dtype) for _ in at)
        self.queries = self.queries_with(nn)
        self.gate = NoiseGate(layer_map, 1)
        self.kappa = nn.Parameter(torch.zeros(()))

    def queries_with(self, operations: ModuleType | type) -> nn.ModuleList:
        """Every cell's queries without weights of their own, made of a host's layers."""
        with torch.device("meta"):
            return nn.ModuleList(CellQueries(*self.sizes, operations) for _ in self.at)

    def cells(self) -> dict[int, nn.Module]:
        """The cells' queries by the index of their block."""
        return dict(zip(self.at, self.queries))

    def keys_values(self, tokens: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Tokens [B, N, context] → k, v for each block of the layer map; None for a block without a cell.

        Weights on another device are moved one cell at a time.
        """
        made: list[tuple[Tensor, Tensor] | None] = [None] * self.count
        for index, cell in zip(self.at, self.keys):
            made[index] = cell(tokens)
        return made


def cells_of(adapter: nn.Module) -> dict[str, dict[int, nn.Module]]:
    """Each stream's cells by the index of their block; {} for a stream without cells."""
    streams = adapter.streams.items()
    return {name: stream.cells() if isinstance(stream, StreamCells) else {} for name, stream in streams}


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
        out[span_of(stream)].addcmul_(residual, weight)
    return hidden if in_place else torch.cat([hidden[:, :start], out, hidden[:, start + count :]], 1)


def _residual(x: Tensor, stream: LayerStream, heads: int, attend: Attend) -> Tensor:
    cell = stream.cell
    residual, q = cell(x, *(expand(part, stream.rows) for part in (stream.k, stream.v)), attend)
    if stream.kappa is None:
        return residual
    shared = overlap(residual, x, q, stream, heads if stream.projection == "feature" else cell.heads)
    return residual - stream.kappa * shared
