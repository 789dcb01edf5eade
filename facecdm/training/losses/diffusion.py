"""The diffusion loss, weighted by noise level and, for some rows, by place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..step_data import Moment
from .loss import Loss, box_cover, grow_box


@dataclass(frozen=True)
class DiffusionLoss(Loss):
    """Mean squared error of the U-Net's own prediction, ε or v.

    gamma      min-SNR-γ weights (Hang et al. 2023); 0 or None: every noise level alike. With zero terminal SNR the
               weight of v at pure noise is 0, since there v says nothing of ε; unweighted, that step is learnt, too
    face       whether rows with `face_region` look at their face alone (PhotoMaker: half of the rows)
    outside    what places outside of the face's box weigh then
    grow       how much larger than the detector's the box is
    """

    gamma: float | None = 5.0
    face: bool = True
    outside: float = 0.0
    grow: float = 1.25
    name = "diffusion"

    def chosen(self, moment: Moment) -> Tensor:
        return torch.ones_like(moment.t, dtype=torch.bool)

    def per_row(self, moment: Moment) -> Tensor:
        error = (moment.prediction.float() - target(moment)).square().mean(1)
        weight = self.places(moment)
        loss = (error * weight).mean((1, 2))
        return loss * min_snr(moment, self.gamma) if self.gamma else loss

    def places(self, moment: Moment) -> Tensor:
        """[B, h, w] of mean 1 in each row, so that small faces weigh as much as large ones."""
        if not self.face or moment.face_region is None:
            return torch.ones_like(moment.noisy[:, 0])
        inside = box_cover(grow_box(moment.rows.box, self.grow), *moment.noisy.shape[-2:])
        weight = inside + self.outside * (1 - inside)
        total = weight.mean((1, 2), keepdim=True)
        masked = moment.face_region[:, None, None] & (inside.amax((1, 2), keepdim=True) > 0)
        return torch.where(masked, weight / total.clamp(min=1e-6), torch.ones_like(weight))


def target(moment: Moment) -> Tensor:
    """What the U-Net should have said, [B, C, h, w]."""
    if moment.denoiser.prediction != "v":
        return moment.noise
    a, s = (x.view(-1, 1, 1, 1) for x in (moment.signal, moment.noise_level))
    return a * moment.noise - s * moment.rows.latents


def min_snr(moment: Moment, gamma: float) -> Tensor:
    """[B] min(SNR, γ) / SNR for ε, min(SNR, γ) / (SNR + 1) for v, written without a division by zero."""
    signal, noise = moment.signal.double().square(), moment.noise_level.double().square()
    if moment.denoiser.prediction == "v":  # α² + σ² = 1
        return torch.minimum(signal, gamma * noise).float()
    return (gamma * noise / signal.clamp(min=1e-12)).clamp(max=1).float()
