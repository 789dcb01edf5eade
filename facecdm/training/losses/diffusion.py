"""The diffusion loss, weighted by noise level and, for some rows, by position."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import FaceCDMError
from ..settings import setting, share
from ..step_data import StepData
from .loss import Loss, LossInputs, LossSettings, box_cover, grow_box


@dataclass(frozen=True)
class DiffusionLoss(Loss):
    """Mean squared error of the model's prediction: ε, v, or the velocity of a flow.

    gamma      γ of the min-SNR-γ weights (Hang et al. 2023); 0 or None: weight 1 at all noise levels. With zero
               terminal SNR the weight of v at pure noise is 0, since v does not depend on ε there; unweighted, it is 1.
               A flow has weight 1, since its steps are shifted to the levels that matter
    face       whether the loss is limited to the face in rows with `face_region` (PhotoMaker: half of the rows)
    outside    weight of the positions outside the face's box in those rows
    grow       size of the box, as a multiple of the detector's box
    """

    gamma: float | None = 5.0
    face: bool = True
    outside: float = 0.0
    grow: float = 1.25

    def chosen(self, step_data: StepData) -> Tensor:
        return torch.ones_like(step_data.t, dtype=torch.bool)

    def per_row(self, step_data: StepData) -> Tensor:
        error = (step_data.prediction.float() - target(step_data)).square().mean(1)
        loss = (error * self.position_weights(step_data)).mean((1, 2))
        return loss * min_snr(step_data, self.gamma) if self.gamma else loss

    def position_weights(self, step_data: StepData) -> Tensor:
        """[B, h, w] with mean 1 in each row, so that small faces weigh as much as large ones."""
        if not self.face or step_data.face_region is None:
            return torch.ones_like(step_data.noisy[:, 0])
        inside = box_cover(grow_box(step_data.rows.box, self.grow), *step_data.noisy.shape[-2:])
        weight = inside + self.outside * (1 - inside)
        total = weight.mean((1, 2), keepdim=True)
        masked = step_data.face_region[:, None, None] & (inside.amax((1, 2), keepdim=True) > 0)
        return torch.where(masked, weight / total.clamp(min=1e-6), torch.ones_like(weight))


def target(step_data: StepData) -> Tensor:
    """The exact prediction [B, C, h, w]: ε, v = α ε − σ z, or a flow's ε − z."""
    if step_data.denoiser.prediction == "flow":
        return step_data.noise - step_data.rows.latents
    if step_data.denoiser.prediction != "v":
        return step_data.noise
    a, s = (x.view(-1, 1, 1, 1) for x in (step_data.signal, step_data.noise_level))
    return a * step_data.noise - s * step_data.rows.latents


def min_snr(step_data: StepData, gamma: float) -> Tensor:
    """Weights [B]: min(SNR, γ) / SNR for ε, min(SNR, γ) / (SNR + 1) for v, computed without dividing by zero; 1 for a
    flow."""
    if step_data.denoiser.prediction == "flow":
        return torch.ones_like(step_data.signal)
    signal, noise = step_data.signal.double().square(), step_data.noise_level.double().square()
    if step_data.denoiser.prediction == "v":  # α² + σ² = 1
        return torch.minimum(signal, gamma * noise).float()
    return (gamma * noise / signal.clamp(min=1e-12)).clamp(max=1).float()


@dataclass(frozen=True)
class DiffusionSettings(LossSettings):
    """Settings of the diffusion loss, whose weight is 1. `noise_share` of the rows have t in noise_low … noise_high."""

    name = "diffusion"
    formula = "w(t) · mean_p m_p (prediction − target)², for ε, v or a flow's velocity"
    weight = 1.0

    min_snr: float = setting(5.0, "γ of the min-SNR weights, which balance the noise levels; 0: all weights are 1.", 0)
    noise_low: int = setting(0, "Start of the preferred range of timesteps, in 0 … 1000.", 0, 1000)
    noise_high: int = setting(1000, "End of the preferred range of timesteps, in 0 … 1000.", 0, 1000)
    noise_share: float = share(0.0, "Share of rows whose timestep is in the preferred range; the others lie outside.")
    face_region: float = share(0.5, "Probability that a row's diffusion loss counts only the face region.")
    face_window: float = share(
        0.0,
        "Share of steps that are trained on a window of half the picture's side around the face: a quarter of the "
        "latents.",
    )

    def check(self) -> None:
        if not self.noise_low < self.noise_high:
            raise FaceCDMError(
                f"noise_low must be less than noise_high, both in 0…1000; got {self.noise_low} and {self.noise_high}"
            )

    def make(self, inputs: LossInputs) -> DiffusionLoss:
        return DiffusionLoss(self.min_snr)
