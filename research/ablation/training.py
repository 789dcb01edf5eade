"""One training of an arm: its initial adapter, its folder; it is done once."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from benchmarks.shared import lora_beside
from facecdm.adapter.location_head import LocationHead
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.files import write_atomically
from facecdm.training.config import Config
from facecdm.training.denoiser import digest_of
from facecdm.training.location import LocationPlan, kept_location_head, train_location_head
from facecdm.training.lora import Lora
from facecdm.training.progress import Progress
from facecdm.training.session import Session
from facecdm.training.stages import Stage
from facecdm.training.trainer import Trainer

from .arms import Arm, Design, config_of, plan
from .bases import Bases
from .designs import count_weights, initialise, lora_weights, planned_weights


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training. Equal keys mean equal weights; `facts` are for the report."""

    key: str
    adapter: TripletAdapter
    lora: Lora
    facts: dict
    control: Lora = field(default_factory=Lora)


@dataclass(frozen=True, eq=False)
class Lab:
    """What all trainings share.

    folder  of the experiment
    given   existing adapters by arm, instead of its first training
    head    the location head of all arms; None: it is trained once
    spent   the processor's seconds a picture of the location head's training, if it was trained in this run
    """

    bases: Bases
    data: object
    recipe: Config
    folder: Path
    given: dict[str, Path] = field(default_factory=dict)
    head: LocationHead | None = None
    spent: dict[str, float] = field(default_factory=dict)

    def stages(self, arm: Arm, seed: int):
        return plan(arm, self.recipe, seed)

    def initial(self, arm: Arm, seed: int) -> TripletAdapter:
        return initialise(arm.design, *self._parts(arm), seed, self._head())

    def weights(self, arm: Arm) -> int:
        """The number of weights that the arm trains, LoRAs included."""
        return planned_weights(arm.design, *self._parts(arm))

    def _parts(self, arm: Arm) -> tuple:
        return self.bases.training(arm.design), self.data, self.recipe.sizes, self.recipe.plan()[0].lora_rank

    def _head(self) -> LocationHead | None:
        """The location head, which is trained once, before the first adapter; None if the recipe has none."""
        if self.head is not None:
            return self.head
        steps = max(stage.location_steps for stage in self.recipe.plan())
        if not steps:
            return None
        stage, denoiser = self.recipe.plan()[0], self.bases.plain
        wanted = LocationPlan(steps, batch=min(64, 2 * stage.batch), call=stage.batch)
        made_with = json.dumps([wanted.to_dict(), denoiser.fingerprint, self.data.fingerprint])
        self.folder.mkdir(parents=True, exist_ok=True)

        def train() -> LocationHead:
            began = time.process_time()
            head = train_location_head(denoiser, self.data, wanted)
            self.spent["location"] = (time.process_time() - began) / steps / wanted.batch
            return head

        return kept_location_head(self.folder / f"location head, {digest(made_with)}.pt", made_with, train)

    def key(self, arm: Arm, seed: int) -> str:
        """The key of a training, done or not."""
        if self._is_given(arm, seed):
            return self.train(arm, seed).key
        sizes, recogniser = self.recipe.sizes.model_dump(exclude_defaults=True), self.recipe.recogniser
        denoiser = self.bases.training(arm.design)
        return digest(
            [
                [stage.to_dict() for stage in self.stages(arm, seed)],
                asdict(arm.design),
                sizes,
                seed,
                self.data.fingerprint,
                denoiser.fingerprint,
                denoiser.control_fingerprint,
                recogniser and recogniser.name,
                self._head_fingerprint,
            ]
        )

    def determinants(self, arm: Arm, seed: int) -> list:
        """What determines a training on any machine: settings that differ from the defaults, the location head, and the
        adapter that is given instead."""
        stages = [changed(stage, Stage()) for stage in self.stages(arm, seed)]
        given = self.key(arm, seed) if self._is_given(arm, seed) else None
        machine = {"precision", "save_every"}
        settings = [{name: value for name, value in stage.items() if name not in machine} for stage in stages]
        return [settings, changed(arm.design, Design()), self.recipe.sizes.given(), self._head_fingerprint, given]

    @property
    def _head_fingerprint(self) -> str | int:
        """That of the given location head, else the number of steps of its training."""
        if self.head is not None:
            return digest_of("location head", self.head.state_dict().values())
        return max(stage.location_steps for stage in self.recipe.plan())

    def _is_given(self, arm: Arm, seed: int) -> bool:
        """Whether an existing adapter takes the place of the training."""
        return seed == 0 and arm.name in self.given

    def train(self, arm: Arm, seed: int) -> Trained:
        """Train, continue an interrupted training, or read a finished one."""
        if self._is_given(arm, seed):
            return _read(arm, self.given[arm.name])
        key = self.key(arm, seed)
        folder = self.folder / "trainings" / f"{arm.name}, seed {seed}, {key}"
        done, begun = folder / "done.json", folder / "begun.safetensors"
        if not done.exists():
            if not begun.exists():
                save_adapter(self.initial(arm, seed), folder, begun.stem, overwrite=True)
            stages, clock = self.stages(arm, seed), Clock()
            config = config_of(stages, self.recipe, out=folder, adapter=begun)
            session = Session(config, lambda *_: self.bases.training(arm.design), data=self.data)
            with clock:
                result = session.training.run(clock)
            session.output.save(result.adapter, result.lora, result.control)
            facts = {
                "arm": arm.name,
                "seed": seed,
                "weights": count_weights(result.adapter) + lora_weights(result.lora, result.control),
                "stages": [stage.to_dict() for stage in stages],
                "seconds a picture": clock.per_picture,
                "last losses": _last_losses(result.history),
            }
            write_atomically(done, json.dumps(facts, indent=1).encode())
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()  # 30 MB a stage, needed only during training
        path = folder / "adapter.safetensors"
        return Trained(
            key, load_adapter(path), _lora(path), json.loads(done.read_text()), _lora_file(control_lora_of(path))
        )


class Clock:
    """An Observer of a training: a progress bar, and the processor's seconds a picture.

    per_picture  stage → "plain", and "identity" for the steps with an identity loss → seconds; without the first step
                 of a run, and without steps that write a checkpoint or preview pictures
    """

    def __init__(self):
        self.per_picture: dict[str, dict[str, float]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._bar: Progress | None = None
        self._before: float | None = None

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def begin(self, trainer: Trainer) -> None:
        self.__exit__()
        self._seconds, self._before, self._bar = {}, None, Progress(trainer.stage, trainer.step)
        self._bar.__enter__()

    def step(self, trainer: Trainer, pictures: Tensor | None) -> None:
        now, stage = time.process_time(), trainer.stage
        if self._before is not None and trainer.step % stage.save_every and trainer.step < stage.steps:
            kind = "identity" if "identity" in trainer.history[-1] else "plain"
            self._seconds.setdefault(kind, []).append((now - self._before) / stage.batch)
            self.per_picture[stage.name] = {name: mean(some) for name, some in self._seconds.items()}
        self._bar(trainer.step, trainer.history)
        self._before = time.process_time()

    def location(self, step: int, steps: int, loss: float) -> None:
        """The head is trained before, by Lab."""


def control_lora_of(adapter: Path) -> Path:
    return adapter.with_name(f"{adapter.stem}_control_lora.safetensors")


def changed(value: object, default: object) -> dict:
    """The fields of a dataclass that differ from `default`'s; fields that are added later change nothing."""
    return {name: own for name, own in asdict(value).items() if own != getattr(default, name)}


def _read(arm: Arm, path: Path) -> Trained:
    """An adapter that was trained elsewhere, with the LoRAs beside it; its metadata has the stages."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        stages = json.loads((file.metadata() or {}).get("facecdm.stages", "[]"))
    adapter, lora, control = load_adapter(path), _lora(path), _lora_file(control_lora_of(path))
    contents = [
        hashlib.sha256(
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else str(value.item()).encode()
        ).hexdigest()
        for value in (*adapter.state_dict().values(), *lora.tensors().values(), *control.tensors().values())
    ]
    weights = count_weights(adapter) + lora_weights(lora, control)
    facts = {"arm": arm.name, "seed": 0, "weights": weights, "stages": stages, "file": path.name}
    return Trained(digest(contents), adapter, lora, facts, control)


def _lora(adapter: Path) -> Lora:
    """The U-Net's LoRA beside an adapter's file; an empty one where there is none."""
    return _lora_file(lora_beside(adapter))


def _lora_file(path: Path | None) -> Lora:
    from safetensors.torch import load_file

    return Lora.from_tensors(load_file(path)) if path is not None and path.exists() else Lora()


def _last_losses(history: list[dict], steps: int = 50) -> dict[str, float]:
    """Means over the last stage's last steps, of the losses that were computed there."""
    last = history[-steps:]
    names = dict.fromkeys(name for line in last for name in line if name not in ("step", "gradient"))
    return {
        name: round(sum(found) / len(found), 5)
        for name in names
        if (found := [line[name] for line in last if name in line])
    }


def digest(value: object) -> str:
    """Ten hex digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]
