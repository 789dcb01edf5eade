"""Checkpoints of a stage: written atomically, and resumed from to the bit."""

import io
import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import BadFile, FaceCDMError
from .learner import Learner
from .worker import Worker

FORMAT = 1


class RunMismatch(FaceCDMError):
    """A checkpoint belongs to other data, settings or weights than those given now."""


@dataclass(frozen=True)
class RunIdentity:
    """All that a stage's result depends on, as JSON values.

    settings    the stage's, its seed among them
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
        """What differs in `other`, a RunIdentity's dictionary, in words."""
        settings = other.get("settings", {})
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


FREE = ("save_every", "validate_every", "checkpointing")  # settings that do not change what is learnt


def save(
    path: Path,
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    scaler: dict,
    identity: RunIdentity,
    step: int,
    history: list[dict],
) -> None:
    """Write the checkpoint to `path`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(_content(learner, optimiser, scaler, identity, step, history), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def resume(
    path: Path, learner: Learner, optimiser: torch.optim.Optimizer, identity: RunIdentity, worker: Worker
) -> tuple[int, dict, list[dict]]:
    """(step, scaler's state, history) of the checkpoint at `path`, its weights put in place; step 0 without one.

    Of several processes all take rank 0's, or its initial weights, whatever lies on their own disks.
    Raises RunMismatch, which says what differs; BadFile where the file is damaged.
    """
    source: Path | io.BytesIO = path
    if worker.count > 1:
        source = io.BytesIO(worker.broadcast(_own(path, learner, optimiser, identity) if worker.rank == 0 else b""))
    elif not path.exists():
        return 0, {}, []
    try:
        stored = torch.load(source, map_location="cpu", weights_only=True)
        before = json.loads(stored["identity"])
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError, TypeError) as error:
        raise BadFile(
            f"{path} is damaged or no checkpoint of this trainer ({type(error).__name__}); delete it to "
            "train this stage anew"
        ) from error
    differences = identity.differences(before | ({"start": identity.start} if worker.rank else {}))
    if stored.get("format") != FORMAT:
        differences.insert(0, f"its format is {stored.get('format')} and this FaceCDM's is {FORMAT}")
    if differences:
        whose = f"{path} belongs to another training" if not worker.rank else f"process {worker.rank + 1} differs"
        raise RunMismatch(
            f"{whose}: {'; '.join(differences)}. Give the same to resume, or another run folder to begin anew."
        )
    learner.restore(stored["learner"])
    optimiser.load_state_dict(stored["optimiser"])
    return stored["step"], stored["scaler"], json.loads(stored["history"])


def _own(path: Path, learner: Learner, optimiser: torch.optim.Optimizer, identity: RunIdentity) -> bytes:
    """The checkpoint at `path`, or one of the initial state."""
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
