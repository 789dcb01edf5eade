"""The demo model's noise schedule for training and for ComfyUI. The process itself is in bases/demo.py."""

from torch import Tensor

from ..bases.demo import DEMO
from ..bases.noise import BETA_END, BETA_START, STEPS

# `sampling_settings` that give ComfyUI's discrete sampling the same schedule.
SAMPLING_SETTINGS = {"beta_schedule": "linear", "linear_start": BETA_START, "linear_end": BETA_END, "zsnr": True}

__all__ = ["SAMPLING_SETTINGS", "STEPS", "signal_and_noise"]


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """(α, σ), each float32 [1000], with α² + σ² = 1 and α almost 0 at the last step.

    Without zero terminal SNR, the training noise would reveal a picture's mean colour, and sampling from pure noise
    could not reach the plain bright and dark backgrounds of the captions.
    """
    return DEMO.noise.alpha, DEMO.noise.sigma
