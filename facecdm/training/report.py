"""The report of a stage: lines of text for the user."""

import torch

from .divergence import skipped_steps
from .trainer import Trainer


def stage_report(trainer: Trainer, first: int, seconds: float) -> list[str]:
    """Report the steps after `first`, which took `seconds`."""
    stage, done = trainer.stage, trainer.step - first
    trained = sum(value.numel() for value in trainer.learner.named.values())
    device = trainer.denoiser.device
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at most" if device.type == "cuda" else ""
    lines = [
        f"stage {stage.name}: {trainer.step} of {stage.steps} steps" + (f" (resumed at step {first})" if first else ""),
        f"{sum(map(len, trainer.buckets))} pictures, {len(trainer.held_out)} held out; batch {stage.batch} × "
        f"{stage.accumulation}; {trained / 1e6:.2f} M weights train: {', '.join(stage.train)}",
        f"{stage.precision} on {device}{memory}"
        + (f", {seconds / done:.2f} s a step" if done else ", nothing left to do"),
    ]
    if skipped := skipped_steps(trainer.history):
        lines.append(f"{len(skipped)} steps were skipped: their gradient was not finite")
    return [*lines, *_losses(trainer.history), f"state: {trainer.checkpoint}"]


def _losses(history: list[dict]) -> list[str]:
    """Each loss's mean over the first tenth and over the last tenth of the steps, and the last validation."""
    steps = [line for line in history if "diffusion" in line]
    tenth, lines = max(len(steps) // 10, 1), []
    for name in dict.fromkeys(name for line in steps for name in line if name != "step"):
        values = [line[name] for line in steps if name in line]
        lines.append(f"{name}: {_mean(values[:tenth]):.4g} → {_mean(values[-tenth:]):.4g}")
    if checks := [line for line in history if "validation" in line]:
        last = checks[-1]
        lines.append(f"held out: {last['validation']:.4g} with the face, {last['validation without face']:.4g} without")
    return lines


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
