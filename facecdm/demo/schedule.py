"""The demo model's noise schedule, as its training and ComfyUI take it. The process itself is in bases/demo.py."""

from torch import Tensor

from ..bases.demo import DEMO
from ..bases.noise import BETA_END, BETA_START, STEPS

# What ComfyUI's discrete sampling takes as `sampling_settings` to arrive at the same schedule.
SAMPLING_SETTINGS = {"beta_schedule": "linear", "linear_start": BETA_START, "linear_end": BETA_END, "zsnr": True}

__all__ = ["SAMPLING_SETTINGS", "STEPS", "signal_and_noise"]


def signal_and_noise() -> tuple[Tensor, Tensor]:
    """(α, σ), each float32 [1000], with α² + σ² = 1 and α almost 0 at the last step.

    Without zero terminal SNR a start from pure noise cannot reach the plain bright and dark backgrounds
    that captions ask for, since a picture's mean colour remains visible in the training noise.
    """
    return DEMO.noise.alpha, DEMO.noise.sigma
