"""The run: the order of trainings and images; the results are written after each."""

from dataclasses import dataclass, field
from pathlib import Path

from facecdm.evaluation.evaluate import SampleScores

from .arms import ARMS, NONE, NOT_REQUESTED, Arm, arm, trained_as, with_strength
from .conditioning import LOCATED, ConditioningProbe
from .results import Results
from .sampling import ImageSampler
from .scoring import Generated, Scorer
from .training import Lab, Trained


@dataclass(frozen=True)
class Job:
    """Images of an arm by one of its trainings, at its own strength or at one of the curve's."""

    arm: Arm
    seed: int
    strength: float | None = None


def jobs(names: list[str], seeds: int, strengths: list[float]) -> list[Job]:
    """Every arm's first training, the curves, then the headline's other seeds: an early table says the most."""
    chosen = [one for one in ARMS if one.name in names or one.name == NONE]
    first = [Job(one, 0) for one in chosen]
    curve = [Job(one, 0, strength) for one in chosen if one.curve for strength in strengths]
    more = [Job(one, seed) for seed in range(1, seeds) for one in chosen if one.headline]
    return first + curve + more


@dataclass(eq=False)
class Experiment:
    """`run` does what is not done yet.

    left_out  arms that are not run, and why
    probe     measures each training's dependence on the reference
    """

    lab: Lab
    sampler: ImageSampler
    scorer: Scorer
    out: Path
    jobs: list[Job]
    settings: dict
    left_out: dict[str, str] = field(default_factory=dict)
    probe: ConditioningProbe | None = None
    _trained: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def run(self) -> Results:
        from tqdm import tqdm

        generated: list[Generated] = []
        rows: list[SampleScores] = []
        results = None
        total = len(self.jobs) * len(self.sampler.evaluation_set.requests)
        with tqdm(total=total, desc="pictures", unit="picture", mininterval=5) as bar:
            real = self.scorer.score_real()
            for job in self.jobs:
                bar.set_description(f"{job.arm.name}, seed {job.seed}")
                sampling = job.arm.sampling if job.strength is None else with_strength(job.arm.sampling, job.strength)
                trained = self._train(job) if job.arm.trains else None
                paths = self.sampler.generate(trained, sampling, bar.update, trained_as(job.arm).design)
                generated.append(Generated(job.arm.name, job.seed, paths, job.strength))
                rows += self.scorer.score(generated[-1], generated[0].paths)  # the first job is without identity
                results = Results(
                    self.scorer,
                    list(rows),
                    list(generated),
                    self.facts(),
                    self.settings,
                    len(self.jobs),
                    self.left_out,
                    self._probed(),
                    real,
                )
                results.write(self.out)
        return results

    def facts(self) -> list[dict]:
        """The facts of the trainings so far."""
        return [one.facts for one in self._trained.values()]

    def _probed(self) -> dict:
        probed: dict = {}
        plain = {key: one for key, one in self._trained.items() if not arm(key[0]).design.face_control}
        for (name, seed), trained in sorted(plain.items(), key=lambda item: item[0][1]) if self.probe else ():
            name = f"{name}, seed {seed}" if seed else name
            probed[name] = self.probe.measure(trained)
            if trained.adapter.config.spatial_tokens:
                probed[name + LOCATED] = self.probe.measure(trained, located=True)
        return probed

    def _train(self, job: Job) -> Trained:
        source = trained_as(job.arm)
        if (source.name, job.seed) not in self._trained:
            self._trained[source.name, job.seed] = self.lab.train(source, job.seed)
        return self._trained[source.name, job.seed]


def available(names: list[str] | None, pose: bool) -> tuple[list[str], dict[str, str]]:
    """(arms to run, arms left out and why); without `names` all. Raises FaceCDMError for an unknown name."""
    chosen = [NONE, *(arm(name).name for name in names)] if names else [one.name for one in ARMS]
    out = {}
    if not pose:
        out = {
            one.name: "there is no pose ControlNet" for one in ARMS if not one.sampling.pose or one.design.face_control
        }
    out |= {one.name: NOT_REQUESTED for one in ARMS if one.name not in {*chosen, *out}}
    return [name for name in chosen if name not in out], out
