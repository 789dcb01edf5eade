"""The demo model's noise schedule: Stable Diffusion's, rescaled to zero terminal SNR (Lin et al. 2023, alg. 1)."""

import torch
from torch import Tensor

STEPS = 1000
# What ComfyUI's discrete sampling takes as `sampling_settings` to arrive at the same schedule.
SAMPLING_SETTINGS = {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012, "zsnr": True}


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """(α, σ), each float32 [1000], with α² + σ² = 1 and α almost 0 at the last step.

    Without zero terminal SNR a start from pure noise cannot reach the plain bright and dark backgrounds
    that captions ask for, since the mean colour of a picture shines through the training noise.
    """
    start, end = SAMPLING_SETTINGS["linear_start"], SAMPLING_SETTINGS["linear_end"]
    betas = torch.linspace(start**0.5, end**0.5, STEPS, dtype=torch.float64) ** 2
    alpha = (1 - betas).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha[-1] = 4.8973451890853435e-08**0.5  # not quite 0, so that σ/α stays finite; ComfyUI's own value
    return alpha.float(), (1 - alpha**2).sqrt().float()
