"""Losses that keep the response to the prompt, the layout and the background unchanged by the face."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..settings import setting
from ..step_data import StepData
from .loss import Loss, LossInputs, LossSettings, box_cover, grow_box


@dataclass(frozen=True)
class AlignmentLoss(Loss):
    """Alignment with the same U-Net without the face (PuLID, Guo et al. 2024, L_align): mean over all layers of

        ‖R(K, Q) − R(K₀, Q₀)‖² + layout · ‖Q − Q₀‖²       R(K, Q) = softmax(K Qᵀ / √d) Q

    Q are the queries of a cross-attention, and K its prompt's keys. Q₀ and K₀ are those of the U-Net without the face.
    Norms are means over tokens or positions, and features. `layout` is a relative weight: .1 / .6 in PuLID.
    """

    layout: float = 0.1 / 0.6
    needs = frozenset({"queries"})

    def per_row(self, step_data: StepData) -> Tensor:
        heads = {layer.width: layer.heads for layer in step_data.denoiser.layer_map.layers}
        total = step_data.noisy.new_zeros(len(step_data.t))
        for (q, k), (plain_q, plain_k) in zip(step_data.queries, step_data.plain_queries):
            count = heads[q.shape[-1]]
            with torch.autocast(q.device.type, enabled=False):
                change = response(k, q, count) - response(plain_k, plain_q, count).detach()
                shift = q.float() - plain_q.float().detach()
            total = total + change.square().mean((1, 2)) + self.layout * shift.square().mean((1, 2))
        return torch.where(self.chosen(step_data), total / max(len(step_data.queries), 1), 0.0)


def response(k: Tensor, q: Tensor, heads: int) -> Tensor:
    """Text keys [B, T, C] and queries [B, n, C] → softmax(k qᵀ / √d) q per head, [B, T, C] float32."""
    k, q = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (k, q))
    weights = (k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ q).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class BackgroundLoss(Loss):
    """Mean squared change that the face causes in the prediction outside the face's box.

    grow   size of the box, as a multiple of the detector's box
    """

    grow: float = 1.5
    needs = frozenset({"plain"})

    def per_row(self, step_data: StepData) -> Tensor:
        outside = 1 - box_cover(grow_box(step_data.rows.box, self.grow), *step_data.noisy.shape[-2:])
        change = (step_data.prediction.float() - step_data.plain_prediction.float().detach()).square().mean(1)
        loss = (change * outside).sum((1, 2)) / outside.sum((1, 2)).clamp(min=1e-6)
        return torch.where(self.chosen(step_data), loss, 0.0)


class _Compared(LossSettings):
    """The common interval: both losses use one U-Net call without the face."""

    @property
    def every(self) -> int:
        return self.alignment_every


def _interval() -> int:
    return setting(1, "Steps between alignment and background losses.", 1)


@dataclass(frozen=True)
class AlignmentSettings(_Compared):
    name = "alignment"
    formula = "‖R(K, Q) − R(K₀, Q₀)‖² + λ ‖Q − Q₀‖², R(K, Q) = softmax(KQᵀ/√d) Q"
    requires = "queries; a U-Net call without the face"

    alignment: float = setting(0.0, "Weight of the loss that preserves the base model's response to the prompt.", 0)
    alignment_layout: float = setting(0.1, "Weight of the same loss, for the layout.", 0)
    alignment_every: int = _interval()

    def make(self, inputs: LossInputs) -> AlignmentLoss:
        return AlignmentLoss(self.alignment_layout / self.alignment)


@dataclass(frozen=True)
class BackgroundSettings(_Compared):
    name = "background"
    formula = "mean over positions outside of the face of (prediction − prediction₀)²"
    requires = "a U-Net call without the face"

    background: float = setting(0.0, "Weight of the loss that keeps the prediction unchanged outside the face.", 0)
    alignment_every: int = _interval()

    def make(self, inputs: LossInputs) -> BackgroundLoss:
        return BackgroundLoss()
