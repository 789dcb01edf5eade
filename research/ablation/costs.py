"""What each arm takes: the list of the arms with their weights, pictures and estimated core hours."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from facecdm.files import write_atomically

from .arms import ARMS, TRIPLET, Arm, arm, trained_as
from .experiment import Job
from .training import Lab

FILE = "costs.json"  # in --out


@dataclass(frozen=True)
class Costs:
    """Seconds of one core.

    training   arm → stage → "plain" or "identity" (a step with an identity loss) → seconds a training picture
    image      arm → seconds a step of one generated image, with guidance
    location   seconds a picture of the location head's training
    machine    where they were measured
    """

    training: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    image: dict[str, float] = field(default_factory=dict)
    location: float = 0.0
    machine: str = ""

    @classmethod
    def read(cls, path: Path) -> "Costs":
        """Those of earlier runs; none if there is no file."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, path: Path) -> None:
        write_atomically(path, (json.dumps(vars(self), indent=1) + "\n").encode())

    def of_training(self, one: Arm, lab: Lab) -> float | None:
        """Seconds of one training; None if it was not measured."""
        seconds = 0.0
        for stage in lab.stages(one, 0):
            known = self._of_stage(one.name, stage.name)
            with_identity = stage.steps // stage.identity_every if stage.identity else 0
            counts = {"identity": with_identity, "plain": stage.steps - with_identity}
            if any(count and name not in known for name, count in counts.items()):
                return None
            seconds += sum(count * stage.batch * known[name] for name, count in counts.items() if count)
        return seconds

    def _of_stage(self, name: str, stage: str) -> dict[str, float]:
        """Of the arm's stage; what was not measured there, of the triplet's stages."""
        stages = self.training.get(TRIPLET, {})
        own = self.training.get(name, {}).get(stage)
        shared = {kind: value for of in stages.values() for kind, value in of.items()}
        return {} if own is None else shared | stages.get(stage, {}) | own

    def of_images(self, name: str, images: int, steps: int) -> float:
        return images * steps * self.image.get(name, self.image.get(TRIPLET, 0.0))


HEAD = (
    "| arm | differs from the triplet in | trainings | weights, M | pictures | minutes a training | core hours |\n"
    "|---|---|---|---|---|---|---|"
)


def listing(lab: Lab, jobs: list[Job], images: int, sampling_steps: int, costs: Costs) -> str:
    """A table of the arms that the jobs run, with the core hours of all their trainings and images."""
    lines, whole, pictures = [HEAD], 0.0, sum(stage.steps * stage.batch for stage in lab.recipe.plan())
    for one in [one for one in ARMS if any(job.arm == one for job in jobs)]:
        own = [job for job in jobs if job.arm == one]
        trainings = len({job.seed for job in own}) if one.trains and not one.of else 0
        seconds = costs.of_images(trained_as(one).name, images * len(own), sampling_steps)
        each = costs.of_training(one, lab) if trainings else 0.0
        seconds = None if each is None else seconds + trainings * each
        whole += seconds or 0.0
        weights = f"{lab.weights(one) / 1e6:.2f}" if trainings else "–"
        minutes = f"{each / 60:.0f}" if each else "–"
        lines.append(
            f"| {one.name} | {difference(one)} | {trainings or '–'} | {weights} | {trainings * pictures or '–'} | "
            f"{minutes} | {'not measured' if seconds is None else f'{seconds / 3600:.2f}'} |"
        )
    return "\n".join([*lines, "", _sum(whole, lab, costs)])


def _sum(seconds: float, lab: Lab, costs: Costs) -> str:
    if not costs.machine:
        return "The costs were not measured: run the arms, or all of them for a few steps (--smoke)."
    first = lab.recipe.plan()[0]
    head = 0.0 if lab.head is not None else first.location_steps * min(64, 2 * first.batch) * costs.location
    return (
        f"The location head, once: {head / 3600:.2f} core hours. All: {(seconds + head) / 3600:.1f} core hours of "
        f"{costs.machine}."
    )


def difference(one: Arm) -> str:
    """How an arm differs from the triplet, in the names of the settings."""
    triplet, parts = arm(TRIPLET), []
    for value, other in ((one.design, triplet.design), (one.sampling, triplet.sampling)):
        parts += [f"{name}: {own}" for name, own in vars(value).items() if own != getattr(other, name)]
    parts += [f"{name}: {value}" for name, value in one.settings]
    lists = {"not trained": one.frozen, "also trained": one.trained}
    parts += [f"{what}: {', '.join(groups)}" for what, groups in lists.items() if groups]
    parts += [f"stages: {', '.join(one.stages)}"] * (one.stages != triplet.stages)
    parts += [f"adapter of {one.of}"] * bool(one.of)
    return "; ".join(parts) or ("–" if one.trains else "no adapter")


def measured(experiment) -> Costs:
    """The costs of an experiment's trainings and images so far."""
    facts = [one.facts for one in experiment.trained.values()]
    training = {fact["arm"]: fact["seconds a picture"] for fact in facts if "seconds a picture" in fact}
    before, spent = Costs.read(experiment.out / FILE), experiment.sampler.spent
    location = experiment.lab.spent.get("location", before.location)
    return Costs(before.training | training, before.image | spent, location, machine())


def machine() -> str:
    """The processor's name."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
