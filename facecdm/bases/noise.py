"""Noise processes: how a clean latent and noise are mixed at each training timestep."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BETA_START, BETA_END, STEPS = 0.00085, 0.012, 1000  # of Stable Diffusion
# α² at the last step of a zero-terminal-SNR schedule: not quite 0, so that σ/α stays finite; ComfyUI's own value.
_LAST_ALPHA2 = 4.8973451890853435e-08


@dataclass(frozen=True, eq=False)
class Discrete:
    """A variance-preserving process of discrete steps: x_t = alpha[t]·x_0 + sigma[t]·ε, with alpha² + sigma² = 1.

    alpha, sigma  float32 [steps], in order of increasing noise
    """

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def scaled_linear(cls, zero_terminal_snr: bool = False) -> "Discrete":
        """Stable Diffusion's schedule: √β rises linearly (Rombach et al. 2022).

        `zero_terminal_snr` rescales it so that no signal is left at the last step (Lin et al. 2023, alg. 1).
        """
        betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, STEPS, dtype=torch.float64) ** 2
        alpha = (1 - betas).cumprod(0).sqrt()
        if zero_terminal_snr:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
            alpha[-1] = _LAST_ALPHA2**0.5
        return cls(alpha.float(), (1 - alpha**2).sqrt().float())


@dataclass(frozen=True)
class Flow:
    """Rectified flow: x_t = (1 − t)·x_0 + t·ε with t in 0 … 1, also the noise level; the model predicts ε − x_0.

    Larger pictures need more noise, so uniform times are shifted by an amount μ that is linear in the number of image
    tokens (Esser et al. 2024; black-forest-labs/flux, src/flux/sampling.py).

    tokens  numbers of image tokens at which μ is known
    shifts  μ at these numbers
    """

    tokens: tuple[int, int] = (256, 4096)
    shifts: tuple[float, float] = (0.5, 1.15)

    def shift(self, tokens: int) -> float:
        """μ for a picture of `tokens` image tokens."""
        (few, many), (low, high) = self.tokens, self.shifts
        return low + (tokens - few) * (high - low) / (many - few)

    def time(self, uniform: Tensor, shift: float) -> Tensor:
        """Uniform times in 0 … 1 → t, shifted by μ."""
        return math.exp(shift) * uniform / (1 + (math.exp(shift) - 1) * uniform)

    @staticmethod
    def ratio(t: Tensor) -> Tensor:
        """σ/α = t / (1 − t), the noise level by which gates and location heads compare all noise processes."""
        return t / (1 - t).clamp(min=1e-4)

    def noisy(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of x_0 and ε; `t` broadcasts over them."""
        return (1 - t) * clean + t * noise

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """The velocity that the model learns to predict."""
        return noise - clean

    def clean(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x_0 of x_t and the predicted velocity."""
        return noisy - t * velocity
