"""What a person must not change: how the picture answers the text, how it is laid out, what is behind the face."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..step_data import StepData
from .loss import Loss, box_cover, grow_box


@dataclass(frozen=True)
class AlignmentLoss(Loss):
    """Alignment to the same U-Net without people, of PuLID (Guo et al. 2024, L_align): mean over all layers of

        ‖R(K, Q) − R(K₀, Q₀)‖² + layout · ‖Q − Q₀‖²       R(K, Q) = softmax(K Qᵀ / √d) Q

    with Q the queries of a cross-attention, K its text's keys, ₀ the U-Net without people: R says what a word finds in
    the picture. Norms are means over words or places and features. `layout` is relative: .1 / .6 in PuLID.
    """

    layout: float = 0.1 / 0.6
    name = "alignment"
    needs_queries = True

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
    """softmax(k qᵀ / √d) q per head: text keys [B, T, C] ask the places [B, n, C] → [B, T, C], float32."""
    k, q = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (k, q))
    weights = (k @ q.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ q).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class BackgroundLoss(Loss):
    """Mean squared difference that people make to the prediction outside of the face's box."""

    grow: float = 1.5
    name = "background"
    needs_plain = True

    def per_row(self, step_data: StepData) -> Tensor:
        outside = 1 - box_cover(grow_box(step_data.rows.box, self.grow), *step_data.noisy.shape[-2:])
        change = (step_data.prediction.float() - step_data.plain_prediction.float().detach()).square().mean(1)
        loss = (change * outside).sum((1, 2)) / outside.sum((1, 2)).clamp(min=1e-6)
        return torch.where(self.chosen(step_data), loss, 0.0)
