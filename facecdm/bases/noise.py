"""Noise processes: how a clean latent and noise are mixed at each training timestep."""

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
