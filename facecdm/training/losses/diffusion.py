"""The diffusion loss, weighted by noise level and, for some rows, by place."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..step_data import StepData
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

    def chosen(self, step_data: StepData) -> Tensor:
        return torch.ones_like(step_data.t, dtype=torch.bool)

    def per_row(self, step_data: StepData) -> Tensor:
        error = (step_data.prediction.float() - target(step_data)).square().mean(1)
        weight = self.places(step_data)
        loss = (error * weight).mean((1, 2))
        return loss * min_snr(step_data, self.gamma) if self.gamma else loss

    def places(self, step_data: StepData) -> Tensor:
        """[B, h, w] of mean 1 in each row, so that small faces weigh as much as large ones."""
        if not self.face or step_data.face_region is None:
            return torch.ones_like(step_data.noisy[:, 0])
        inside = box_cover(grow_box(step_data.rows.box, self.grow), *step_data.noisy.shape[-2:])
        weight = inside + self.outside * (1 - inside)
        total = weight.mean((1, 2), keepdim=True)
        masked = step_data.face_region[:, None, None] & (inside.amax((1, 2), keepdim=True) > 0)
        return torch.where(masked, weight / total.clamp(min=1e-6), torch.ones_like(weight))


def target(step_data: StepData) -> Tensor:
    """What the U-Net should have said, [B, C, h, w]."""
    if step_data.denoiser.prediction != "v":
        return step_data.noise
    a, s = (x.view(-1, 1, 1, 1) for x in (step_data.signal, step_data.noise_level))
    return a * step_data.noise - s * step_data.rows.latents


def min_snr(step_data: StepData, gamma: float) -> Tensor:
    """[B] min(SNR, γ) / SNR for ε, min(SNR, γ) / (SNR + 1) for v, written without a division by zero."""
    signal, noise = step_data.signal.double().square(), step_data.noise_level.double().square()
    if step_data.denoiser.prediction == "v":  # α² + σ² = 1
        return torch.minimum(signal, gamma * noise).float()
    return (gamma * noise / signal.clamp(min=1e-12)).clamp(max=1).float()
