"""One training run, with any host of the base model: its checks, stages, pictures, reports and files."""

import io
import json
import time
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from ..adapter.location_head import LocationHead
from ..adapter.model import TripletAdapter
from ..files import write_file
from .chart import draw_losses
from .checks import Inputs, Job, check_adapter, check_stage, fitted
from .held_out import choose_held_out, training_part
from .initialise import initialised
from .location import LocationPlan, kept_location_head, train_location_head, with_location_head
from .lora import Lora
from .losses import LossInputs
from .preview import choose, preview, side_by_side
from .report import stage_report
from .stages import Stage
from .state import FREE_SPACE
from .terms import check_losses, terms_of
from .trainer import Trainer, start_hash


class Observer(Protocol):
    """Follows a training run, like a progress bar. An exception that it raises stops the run, which is saved."""

    def begin(self, trainer: Trainer) -> None:
        """Called before the first step of a stage in this run."""

    def step(self, trainer: Trainer, pictures: Tensor | None) -> None:
        """Called after each step; `pictures` are new previews [N, 3, H, W] in 0…1, or None."""

    def location(self, step: int, steps: int, loss: float) -> None:
        """Called after each step of a location head's training, which precedes a stage.

        An exception stops the run; the head's training then starts again, since it has no checkpoints.
        """


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The result of a training run.

    adapter   the trained adapter, on the CPU
    lora      the U-Net's LoRA; empty if none was trained
    control   the ControlNet's LoRA; empty if none was trained
    history   a dictionary for every step and validation of all stages
    pictures  [N, 3, H, W] in 0…1 of held-out people after the last stage; None without a decoder
    report    lines of the report for the user
    notices   the lines of the report that say what was left out, or has no effect, and why; each once
    """

    adapter: TripletAdapter
    lora: Lora
    control: Lora
    history: list[dict] = field(default_factory=list)
    pictures: Tensor | None = None
    report: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


class Training:
    """The stages of one training run, in sequence, on one denoiser.

    Raises FaceCDMError at once if parts do not fit together. The given adapter and LoRAs are not changed.
    """

    def __init__(
        self,
        inputs: Inputs,
        jobs: list[Job],
        adapter: TripletAdapter,
        lora: Lora | None = None,
        control: Lora | None = None,
    ):
        self.inputs = inputs
        self._lora, self._control = lora or Lora(), control or Lora()
        check_adapter(adapter, inputs.denoiser, inputs.data)
        self._lora.check_fits(inputs.denoiser.layers())
        self._control.check_fits(inputs.denoiser.control_layers())
        self.stages, self._notices = [], []
        for job in jobs:
            stage, notices = fitted(job, inputs)
            check_stage(stage, inputs)
            self.stages.append(stage)
            self._notices.append(notices)
        self.held_out = choose_held_out(inputs.data, inputs.held_out)
        self._training_part = training_part(inputs.data, self.held_out)
        self.adapter = initialised(adapter, inputs.denoiser, inputs.data, inputs.positions)
        for stage in self.stages:
            check_losses(stage, self._loss_inputs(self.adapter))
        self.start = start_hash(self.adapter, self._lora, self._control)
        for stage, notices in zip(self.stages, self._notices):
            notices += self._location_notices(stage) + self._image_notices()

    def run(self, observer: Observer | None = None) -> TrainingResult:
        """Train the remaining stages; finished stages are read from their checkpoints.

        Raises state.RunMismatch if the folder holds another training run, and divergence.Diverged.
        """
        result = TrainingResult(self.adapter, self._lora, self._control)
        for stage, notices in zip(self.stages, self._notices):
            result = self._stage(stage, notices, result, observer)
        return replace(result, notices=list(dict.fromkeys(chain(*self._notices))))

    def _stage(
        self, stage: Stage, notices: list[str], before: TrainingResult, observer: Observer | None
    ) -> TrainingResult:
        before = self._with_location_head(stage, before, observer)
        trainer = self._trainer(stage, before)
        began, first, pictures = time.monotonic(), trainer.step, None
        if trainer.denoiser.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.denoiser.device)

        def watch(trainer: Trainer) -> None:
            nonlocal pictures
            pictures = self._pictures(trainer) if _is_due(trainer) else None
            if observer is not None:
                observer.step(trainer, pictures)

        if observer is not None:
            observer.begin(trainer)
        made = trainer.run(watch)
        seconds = time.monotonic() - began
        if first == stage.steps:
            with trainer.applied():
                pictures = self._pictures(trainer)
        self._record(trainer)
        report = [*before.report, *notices, *stage_report(trainer, first, seconds), ""]
        history = before.history + made.history
        return TrainingResult(made.adapter, made.lora, made.control, history, pictures, report)

    def _with_location_head(self, stage: Stage, before: TrainingResult, observer: Observer | None) -> TrainingResult:
        """`before`, with a location head for its adapter if the stage trains one and the adapter has none."""
        adapter, inputs = before.adapter, self.inputs
        if not stage.location_steps or not adapter.config.spatial_tokens or adapter.location_head is not None:
            return before
        plan = LocationPlan(
            stage.location_steps, seed=stage.seed, windows=min(stage.face_window, 0.5), call=stage.batch
        )
        began, losses = time.monotonic(), []

        def report(step: int, loss: float) -> None:
            losses.append(loss)
            if observer is not None:
                observer.location(step, plan.steps, loss)

        def train() -> LocationHead:
            return train_location_head(inputs.denoiser, inputs.data, plan, report, self.held_out, inputs.worker)

        settings = plan.to_dict() | {"call": 0}  # limits the memory and changes nothing else
        parts = [settings, inputs.denoiser.fingerprint, inputs.data.fingerprint, sorted(self.held_out)]
        made_with = json.dumps(parts)
        head = kept_location_head(inputs.folder / "location_head.pt", made_with, train, inputs.worker)
        tenth = losses[-max(len(losses) // 10, 1) :]
        lines = [
            f"location head: {plan.steps} steps"
            + (f", loss {sum(tenth) / len(tenth):.3f}, {time.monotonic() - began:.0f} s" if losses else " (kept)"),
            "",
        ]
        return replace(before, adapter=with_location_head(adapter, head), report=[*before.report, *lines])

    def _location_notices(self, stage: Stage) -> list[str]:
        """Notices of settings for the location head that have no effect."""
        if not self.adapter.config.spatial_tokens:
            asked = [name for name in ("location_steps", "find_location") if getattr(stage, name)]
            return [f"no {' and '.join(asked)}: the adapter's face tokens are not spatial"] if asked else []
        until = self.stages[: self.stages.index(stage) + 1]
        if stage.find_location and self.adapter.location_head is None and not any(one.location_steps for one in until):
            return ["no find_location: the adapter has no location head; location_steps trains one"]
        return []

    def _image_notices(self) -> list[str]:
        if self.adapter.config.image_width and self.inputs.data.features([0])[1] is None:
            return [
                "the image stream is not trained: the data set has no features of a vision tower; prepare it with "
                "clip_vision (in a shell --clip-vision)"
            ]
        return []

    def _trainer(self, stage: Stage, before: TrainingResult) -> Trainer:
        inputs = self.inputs
        return Trainer(
            inputs.denoiser,
            before.adapter,
            before.lora,
            inputs.data,
            stage,
            terms_of(stage, self._loss_inputs(before.adapter)),
            inputs.folder,
            self.held_out,
            inputs.denoiser.fingerprint,
            inputs.worker,
            before.control,
        )

    def _loss_inputs(self, adapter: TripletAdapter) -> LossInputs:
        recogniser = self.inputs.recogniser and self.inputs.recogniser.file
        return LossInputs(self._training_part, self.inputs.denoiser, adapter, recogniser)

    def _pictures(self, trainer: Trainer) -> Tensor | None:
        """Preview held-out people, or any people if none are held out. Saves the previews and the loss plot."""
        inputs = self.inputs
        if inputs.worker.rank or not inputs.denoiser.can_decode:
            return None
        people, prompts = choose(inputs.data, sorted(self.held_out) or list(range(len(inputs.data))))
        pictures = preview(trainer.denoiser, trainer.learner, inputs.data, people, prompts).cpu()
        _save_picture(
            inputs.folder / "pictures" / f"{trainer.stage.name}-{trainer.step:06d}.png", side_by_side(pictures)
        )
        _save_picture(inputs.folder / f"{trainer.stage.name}.png", draw_losses(trainer.history))
        return pictures

    def _record(self, trainer: Trainer) -> None:
        """Save the history of a finished stage as a plot and as JSON lines."""
        if self.inputs.worker.rank:
            return
        path = self.inputs.folder / f"{trainer.stage.name}.jsonl"
        lines = "".join(json.dumps(line) + "\n" for line in trainer.history)
        write_file(path, lines.encode(), FREE_SPACE)
        _save_picture(path.with_suffix(".png"), draw_losses(trainer.history))


def _save_picture(path: Path, picture: Image) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_file(path, content.getvalue(), FREE_SPACE)


def _is_due(trainer: Trainer) -> bool:
    return trainer.step % trainer.stage.validate_every == 0 or trainer.step == trainer.stage.steps
