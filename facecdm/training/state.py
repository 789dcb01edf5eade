"""Checkpoints of a stage, written atomically. Resuming from one is bit-exact."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import BadFile, FaceCDMError
from ..tensor_file import load_pickle
from .learner import Learner
from .stages import Stage
from .worker import Worker

FORMAT = 1
FREE_SPACE = (
    "Free some space and start the same training again: the last checkpoint is kept, and it resumes from there."
)


class RunMismatch(FaceCDMError):
    """A checkpoint was made with other data, settings or weights than the current ones."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything that a stage's result depends on, as JSON values.

    settings    the stage's settings, including the seed
    data        the data set's fingerprint
    base        the base model's fingerprint
    start       a hash of the adapter and the LoRAs that the stage began with
    held_out    indices of the pictures that are held out
    control     the ControlNet's fingerprint; "" without one
    recogniser  a hash of the identity loss's network; "" without one
    """

    settings: dict
    data: str
    base: str
    start: str
    held_out: list[int]
    control: str = ""
    recogniser: str = ""

    def differences(self, other: dict) -> list[str]:
        """Describe how `other`, a RunIdentity's dictionary, differs; one line for each difference."""
        settings = Stage().to_dict() | other.get("settings", {})  # a setting that is newer than the checkpoint was off
        lines = [
            f"{name} was {settings.get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if settings.get(name) != value and name not in FREE
        ]
        names = {
            "data": "the data set",
            "base": "the base model",
            "start": "the initial adapter or LoRA",
            "held_out": "the choice of held-out pictures",
            "control": "the pose ControlNet",
            "recogniser": "the face recogniser",
        }
        return lines + [
            f"{text} is different" for name, text in names.items() if other.get(name, "") != getattr(self, name)
        ]


FREE = ("save_every", "validate_every", "checkpointing")  # settings that do not change the trained weights


def save(
    path: Path,
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    scaler: dict,
    identity: RunIdentity,
    step: int,
    history: list[dict],
) -> None:
    """Write the checkpoint to `path` atomically. Raises FaceCDMError if the disk is full."""
    content, partial = _content(learner, optimiser, scaler, identity, step, history), path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError
        partial.unlink(missing_ok=True)
        raise FaceCDMError(f"{path} could not be written: {_reason(error)}. {FREE_SPACE}") from error


def _reason(error: BaseException) -> str:
    """The disk's own words where torch's zip writer reports that its file has another length."""
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return str(error)[:200]


def resume(
    path: Path, learner: Learner, optimiser: torch.optim.Optimizer, identity: RunIdentity, worker: Worker
) -> tuple[int, dict, list[dict]]:
    """Load the checkpoint at `path`; returns (step, scaler's state, history), with step 0 if there is no checkpoint.

    All processes use rank 0's checkpoint or initial weights, not files on their own disks.
    Raises RunMismatch (the message lists the differences), BadFile (the file is damaged).
    """
    source: Path | io.BytesIO = path
    if worker.count > 1:
        source = io.BytesIO(worker.broadcast(_own(path, learner, optimiser, identity) if worker.rank == 0 else b""))
    elif not path.exists():
        return 0, {}, []
    with damaged(path):
        if source is path and not path.is_file():
            raise ValueError("it is not a file")
        stored = load_pickle(source)
        before = json.loads(stored["identity"])
        differences = identity.differences(before | ({"start": identity.start} if worker.rank else {}))
    if stored.get("format") != FORMAT:
        differences.insert(0, f"its format is {stored.get('format')} and this FaceCDM's is {FORMAT}")
    if differences:
        whose = f"{path} belongs to another training" if not worker.rank else f"process {worker.rank + 1} differs"
        raise RunMismatch(
            f"{whose}: {'; '.join(differences)}. Give the same to resume, or another run folder to begin anew."
        )
    with damaged(path):
        step, scaler, history = int(stored["step"]), dict(stored["scaler"]), list(json.loads(stored["history"]))
        learner.restore(stored["learner"])
        optimiser.load_state_dict(stored["optimiser"])
    return step, scaler, history


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turn every error in the block except FaceCDMError into BadFile."""
    try:
        yield
    except FaceCDMError:
        raise
    except Exception as error:  # torch's unpickler and zip reader raise their own types
        raise BadFile(
            f"{path} is damaged or no checkpoint of this trainer ({type(error).__name__}: {str(error)[:200]}); delete "
            "it to train this stage anew"
        ) from error


def _own(path: Path, learner: Learner, optimiser: torch.optim.Optimizer, identity: RunIdentity) -> bytes:
    """The bytes of the checkpoint at `path`, or of a checkpoint of the initial state."""
    if path.exists():
        return path.read_bytes()
    buffer = io.BytesIO()
    torch.save(_content(learner, optimiser, {}, identity, 0, []), buffer)
    return buffer.getvalue()


def _content(
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    scaler: dict,
    identity: RunIdentity,
    step: int,
    history: list[dict],
) -> dict:
    return {
        "format": FORMAT,
        "identity": json.dumps(vars(identity)),
        "step": step,
        "learner": learner.state(),
        "optimiser": optimiser.state_dict(),
        "scaler": scaler,
        "history": json.dumps(history),
    }
