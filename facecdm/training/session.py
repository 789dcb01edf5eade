"""Training from the shell: open everything that a Config names, train, and save the result."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.native import load_adapter
from ..bases import name_of
from ..errors import BadFile
from ..files import check_filename
from ..tensor_file import read_tensors
from .checks import Inputs, Job, Recogniser
from .config import Config
from .dataset.data_set import DataSet
from .denoiser import Denoiser
from .initialise import random_adapter
from .lora import Lora
from .orchestrator import Training, TrainingResult
from .output import Output, find_lora, notes_of
from .progress import Progress
from .trainer import Trainer
from .worker import Worker

OpenBase = Callable[[Config, str], Denoiser]  # opens the configuration's base model on a device


class Session:
    """Everything that a Config names, opened and checked. `data` is the data set, if it is already open.

    Raises FaceCDMError if parts do not fit together, or if a file of another training run would be overwritten.
    """

    def __init__(
        self,
        config: Config,
        open_base: OpenBase,
        accelerator=None,
        data: DataSet | None = None,
        overwrite: bool = False,
    ):
        self.config, self.accelerator = config, accelerator
        self.data = data or DataSet(config.data)
        self.denoiser = open_base(config, device_of(config, accelerator))
        self.worker = Worker.of(accelerator)
        recogniser = config.recogniser and Recogniser(config.recogniser, "/".join(config.recogniser.parts[-2:]))
        inputs = Inputs(
            self.denoiser, self.data, config.out, recogniser, config.held_out, config.sizes.spatial_tokens, self.worker
        )
        jobs = [Job(stage, frozenset(stage.to_dict())) for stage in config.plan()]
        self.training = Training(inputs, jobs, self._first_adapter(), self._first_lora())
        self.output = Output(config.out, check_filename(config.name), self._notes())
        if not overwrite:
            self.output.check_free()

    def describe(self) -> str:
        parameters = sum(value.numel() for value in self.training.adapter.parameters())
        return (
            f"base: {name_of(self.denoiser.layer_map)} on {self.denoiser.device}\n"
            f"data: {len(self.data)} pictures of {len(self.data.people)} people, {len(self.training.held_out)} "
            f"pictures held out\nadapter: {parameters / 1e6:.1f} M weights, {self.config.adapter or 'new'}"
        )

    def run(self) -> TrainingResult:
        """Train all stages, save the results, and print their paths."""
        with _Follow(self.worker, self.accelerator if self.config.tracker else None) as follow:
            result = self.training.run(follow)
        if self.worker.rank == 0:
            paths = self.output.save(result.adapter, result.lora, result.control)
            print("\n".join([*result.report, *(f"{kind}: {path}" for kind, path in paths.items())]))
        return result

    def _first_adapter(self):
        if self.config.adapter is None:
            return random_adapter(self.denoiser, self.data, **self.config.sizes.given())
        return load_adapter(self.config.adapter)

    def _first_lora(self) -> Lora:
        if self.config.lora is None:
            return Lora()
        path = find_lora(self.config.lora)
        lora = Lora.from_tensors(read_tensors(path)[0], path)
        if not lora.parts:
            raise BadFile(f"{path} holds no LoRA: name the file that lies beside the adapter")
        return lora

    def _notes(self) -> dict[str, str]:
        base = Path(self.config.base).name
        return notes_of(self.data.fingerprint, base, self.config.plan(), self.training.start)


def device_of(config: Config, accelerator=None) -> str:
    """The configuration's device; without one accelerate's, else the GPU if there is one.

    Of several processes each has accelerate's.
    """
    several = accelerator is not None and accelerator.num_processes > 1
    if config.device and not several:
        return config.device
    return str(accelerator.device) if accelerator is not None else "cuda" if torch.cuda.is_available() else "cpu"


class _Follow:
    """An Observer with a progress bar for each stage. It sends the losses to accelerate's tracker.

    The tracker's steps count on from stage to stage, since wandb drops a step that is not after the last one.
    """

    def __init__(self, worker: Worker, tracking):
        self._worker, self._tracking = worker, tracking
        self._bar = ExitStack()
        self._progress: Progress | None = None
        self._before = self._steps = 0  # steps of the stages before this one, and of this one

    def __enter__(self) -> "_Follow":
        if self._tracking is not None:
            self._tracking.init_trackers("facecdm")
        return self

    def __exit__(self, kind, *_) -> None:
        self._bar.close()
        if self._tracking is not None and kind is None:
            self._tracking.end_training()

    def location(self, step: int, steps: int, loss: float) -> None:
        if self._worker.rank == 0 and (step % 50 == 0 or step == steps):
            print(f"location head: step {step} of {steps}, loss {loss:.3f}", flush=True)

    def begin(self, trainer: Trainer) -> None:
        self._before, self._steps = self._before + self._steps, trainer.stage.steps
        self._bar.close()
        self._progress = self._bar.enter_context(Progress(trainer.stage, trainer.step, self._worker.rank > 0))

    def step(self, trainer: Trainer, pictures: Tensor | None) -> None:
        self._progress(trainer.step, trainer.history)
        if self._tracking is not None:
            values: dict[str, float] = {}  # a validation is a line of its own
            for line in takewhile(lambda line: line["step"] == trainer.step, reversed(trainer.history)):
                values |= {name: value for name, value in line.items() if name != "step"}
            self._tracking.log(values, step=self._before + trainer.step)
