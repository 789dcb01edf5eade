"""Detection of divergence: the training stops with an error and saves no weights."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import FaceCDMError
from .stages import Stage

MOST_SKIPPED = 20  # in a row; the fp16 loss scale needs up to 16 skipped steps to fall from 2¹⁶ to 1


class Diverged(FaceCDMError):
    """The training no longer gives finite gradients or weights."""


def skipped_steps(history: Sequence[dict]) -> list[int]:
    """The steps whose gradient was not finite; they changed no weights."""
    return [line["step"] for line in history if not math.isfinite(line.get("gradient", 0.0))]


def check_steps(history: Sequence[dict], stage: Stage) -> None:
    """Raise Diverged if the last MOST_SKIPPED steps, or half the steps of a shorter stage, were all skipped."""
    most = MOST_SKIPPED if stage.precision == "fp16" else min(MOST_SKIPPED, max(stage.steps // 2, 1))
    last = [line for line in history[-2 * most :] if "gradient" in line][-most:]
    if len(last) == most and all(not math.isfinite(line["gradient"]) for line in last):
        raise Diverged(
            f"the training diverged: the last {most} steps of the stage {stage.name!r} had no finite gradient (loss "
            f"{last[-1].get('diffusion')}, learning_rate {stage.learning_rate:g}, precision {stage.precision}). Lower "
            "learning_rate or raise the precision, and begin again in another folder"
        )


def check_weights(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise Diverged if a tensor holds NaN or infinity."""
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise Diverged(
            f"{what} diverged: {len(bad)} of its {len(tensors)} tensors hold NaN or infinity ({bad[0]}), so it is not "
            "saved. Lower learning_rate, and begin again in another folder"
        )
