"""The state of a stage on disk: atomic checkpoints that a killed run goes on from, to the bit."""

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import BadFile, FaceCDMError
from .learner import Learner

FORMAT = 1


class RunMismatch(FaceCDMError):
    """A checkpoint belongs to other data, settings or weights than those given now."""


@dataclass(frozen=True)
class RunIdentity:
    """What a stage's result depends on besides chance, which follows from the seed: all of it, as JSON values."""

    settings: dict
    data: str
    base: str
    start: str  # a hash of the adapter and LoRA that the stage began with
    held_out: list[int]
    control: str = ""
    recogniser: str = ""

    def differences(self, other: dict) -> list[str]:
        """Human lines: what `other`, an Identity's dictionary, has otherwise."""
        settings = other.get("settings", {})
        lines = [
            f"{name} was {settings.get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if settings.get(name) != value and name not in FREE
        ]
        names = {
            "data": "the data set",
            "base": "the base model",
            "start": "the adapter or LoRA that it began with",
            "held_out": "what is held out",
            "control": "the pose ControlNet",
            "recogniser": "the face recogniser",
        }
        return lines + [
            f"{text} is another" for name, text in names.items() if other.get(name, "") != getattr(self, name)
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
    """Write all of it to `path` at once, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(
            {
                "format": FORMAT,
                "identity": json.dumps(vars(identity)),
                "step": step,
                "learner": learner.state(),
                "optimiser": optimiser.state_dict(),
                "scaler": scaler,
                "history": json.dumps(history),
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def resume(
    path: Path, learner: Learner, optimiser: torch.optim.Optimizer, identity: RunIdentity
) -> tuple[int, dict, list[dict]]:
    """(step, scaler's state, history) of the checkpoint at `path`, its weights put in place; step 0 without one.

    Raises OtherRun, which says what differs; BadFile where the file is damaged.
    """
    if not path.exists():
        return 0, {}, []
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(stored["identity"])
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError, TypeError) as error:
        raise BadFile(
            f"{path} is damaged or no checkpoint of this trainer ({type(error).__name__}); delete it to "
            "train this stage anew"
        ) from error
    differences = identity.differences(before)
    if stored.get("format") != FORMAT:
        differences.insert(0, f"its format is {stored.get('format')} and this FaceCDM's is {FORMAT}")
    if differences:
        raise RunMismatch(
            f"{path} belongs to another training: {'; '.join(differences)}. Give the same to go on, or "
            "another run folder to begin anew."
        )
    learner.restore(stored["learner"])
    optimiser.load_state_dict(stored["optimiser"])
    return stored["step"], stored["scaler"], json.loads(stored["history"])
