"""The run: what is trained and drawn in which order, and the table, made anew after each."""

from dataclasses import dataclass, field
from pathlib import Path

from facecdm.evaluation.evaluate import SampleScores

from .arms import ARMS, NONE, NOT_ASKED, TRIPLET, Arm, arm, trained_as, with_strength
from .hearing import TOLD, Ear
from .judging import Drawn, Judge
from .pictures import Artist
from .results import Results
from .training import Lab, Trained


@dataclass(frozen=True)
class Job:
    """Pictures of an arm by one of its trainings, at its own strength or at one of the curve."""

    arm: Arm
    seed: int
    strength: float | None = None


def jobs(names: list[str], seeds: int, strengths: list[float]) -> list[Job]:
    """Every arm's first training, the curve, then the headline's other seeds, so that an early table says the most."""
    chosen = [one for one in ARMS if one.name in names or one.name == NONE]
    first = [Job(one, 0) for one in chosen]
    curve = [Job(one, 0, strength) for one in chosen if one.name == TRIPLET for strength in strengths]
    more = [Job(one, seed) for seed in range(1, seeds) for one in chosen if one.headline]
    return first + curve + more


@dataclass(eq=False)
class Experiment:
    """Everything open; `run` does what is not done yet. `left_out` says which arms are not here, and why.

    With an `ear` every training is asked whether it hears who is shown.
    """

    lab: Lab
    artist: Artist
    judge: Judge
    out: Path
    jobs: list[Job]
    settings: dict
    left_out: dict[str, str] = field(default_factory=dict)
    ear: Ear | None = None
    _trained: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def run(self) -> Results:
        from tqdm import tqdm

        drawn: list[Drawn] = []
        rows: list[SampleScores] = []
        results = None
        total = len(self.jobs) * len(self.artist.cast.asked)
        with tqdm(total=total, desc="pictures", unit="picture", mininterval=5) as bar:
            for job in self.jobs:
                bar.set_description(f"{job.arm.name}, seed {job.seed}")
                drawing = job.arm.drawing if job.strength is None else with_strength(job.arm.drawing, job.strength)
                trained = self._train(job) if job.arm.trains else None
                paths = self.artist.draw(trained, drawing, bar.update)
                drawn.append(Drawn(job.arm.name, job.seed, paths, job.strength))
                rows += self.judge.look(drawn[-1], drawn[0].paths)  # the first job is without identity
                results = Results(
                    self.judge,
                    list(rows),
                    list(drawn),
                    [one.facts for one in self._trained.values()],
                    self.settings,
                    len(self.jobs),
                    self.left_out,
                    self._heard(),
                )
                results.write(self.out)
        return results

    def _heard(self) -> dict:
        heard: dict = {}
        for (name, seed), trained in sorted(self._trained.items(), key=lambda item: item[0][1]) if self.ear else ():
            name = f"{name}, seed {seed}" if seed else name
            heard[name] = self.ear.ask(trained)
            if trained.adapter.config.places:
                heard[name + TOLD] = self.ear.ask(trained, told=True)
        return heard

    def _train(self, job: Job) -> Trained:
        source = trained_as(job.arm)
        if (source.name, job.seed) not in self._trained:
            self._trained[source.name, job.seed] = self.lab.train(source, job.seed)
        return self._trained[source.name, job.seed]


def available(names: list[str] | None, pose: bool) -> tuple[list[str], dict[str, str]]:
    """(arms to run, arms left out and why); without `names` all. Raises FaceCDMError for a name that is none."""
    chosen = [NONE, *(arm(name).name for name in names)] if names else [one.name for one in ARMS]
    out = {}
    if not pose:
        out = {
            one.name: "there is no file of the demo's pose ControlNet"
            for one in ARMS
            if not (one.drawing.pose and one.drawing.told)
        }
    out |= {one.name: NOT_ASKED for one in ARMS if one.name not in {*chosen, *out}}
    return [name for name in chosen if name not in out], out
