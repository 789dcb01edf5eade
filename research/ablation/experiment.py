"""The run: the order of trainings and images; the results are written after each."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from facecdm.errors import Mismatch

from .arms import ARMS, NONE, NOT_REQUESTED, Arm, SamplingSettings, arm, trained_as, with_strength
from .earlier import Earlier, Made
from .results import Results
from .sampling import ImageSampler
from .scoring import Generated, Scorer
from .training import Lab, Trained, digest


@dataclass(frozen=True)
class Job:
    """Images of an arm by one of its trainings, at its own strength or at one of the curve's."""

    arm: Arm
    seed: int
    strength: float | None = None

    @property
    def sampling(self) -> SamplingSettings:
        return self.arm.sampling if self.strength is None else with_strength(self.arm.sampling, self.strength)

    def generated(self, paths: list[Path]) -> Generated:
        return Generated(self.arm.name, self.seed, paths, self.strength)


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
    earlier   scores of runs on other machines; what they have is not done again
    trained   the trainings of this run, by arm and seed
    """

    lab: Lab
    sampler: ImageSampler
    scorer: Scorer
    out: Path
    jobs: list[Job]
    settings: dict
    left_out: dict[str, str] = field(default_factory=dict)
    earlier: Earlier = field(default_factory=Earlier)
    trained: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def run(self) -> Results:
        """Raises Mismatch if an earlier run was planned differently."""
        from tqdm import tqdm

        self._check_earlier()
        generated, rows, made = list(self.earlier.generated), list(self.earlier.rows), dict(self.earlier.made)
        todo = [job for job in self.jobs if job.generated([]).condition not in made]
        wanted, images = len(generated) + len(todo), len(todo) * len(self.sampler.evaluation_set.requests)
        real = self.scorer.score_real()

        def results() -> Results:
            missing = {name: why for name, why in self.left_out.items() if all(one.arm != name for one in generated)}
            facts = self.facts(generated, made)
            return Results(
                self.scorer, list(rows), list(generated), dict(made), facts, self.settings, wanted, missing, real
            )

        found = results()
        with tqdm(total=images, desc="pictures", unit="picture", mininterval=5) as bar:
            for job in todo:
                bar.set_description(f"{job.arm.name}, seed {job.seed}")
                trained = self._train(job) if job.arm.trains else None
                paths = self.sampler.generate(trained, job.sampling, bar.update, trained_as(job.arm).design)
                generated.append(job.generated(paths))
                rows += self.scorer.score(generated[-1])
                made[generated[-1].condition] = Made(self.plan(job), trained.facts["weights"] if trained else 0)
                found = results()
                found.write(self.out)
        found.write(self.out)
        return found

    def facts(self, generated: list[Generated], made: dict[str, Made]) -> list[dict]:
        """The facts of the trainings so far, each once; of an earlier run's those that are known."""
        known: dict[tuple[str, int], dict] = {}
        for one in generated:
            source = trained_as(arm(one.arm))
            if source.trains and (source.name, one.seed) not in known:
                stages = [stage.to_dict() for stage in self.lab.stages(source, one.seed)]
                weights = made[one.condition].weights
                planned = {"arm": source.name, "seed": one.seed, "weights": weights, "stages": stages}
                trained = self.trained.get((source.name, one.seed))
                known[source.name, one.seed] = trained.facts if trained else planned
        return list(known.values())

    def plan(self, job: Job) -> str:
        """A digest of what decides the job's images, except for the machine and its precision."""
        source, sampler = trained_as(job.arm), self.sampler
        stages = [stage.to_dict() | {"precision": ""} for stage in self.lab.stages(source, job.seed)]
        training = [stages, asdict(source.design), self.lab.recipe.sizes.model_dump()]
        requests = [vars(one) for one in sampler.evaluation_set.requests]
        sampling = [asdict(job.sampling), requests, sampler.evaluation_set.names, sampler.steps, sampler.guidance]
        denoiser = self.lab.bases.sampling(source.design)
        base = [denoiser.fingerprint, denoiser.control_fingerprint]
        return digest([base, training if source.trains else None, sampling])

    def _check_earlier(self) -> None:
        for one in self.earlier.generated:
            planned = self.plan(Job(arm(one.arm), one.seed, one.strength))
            if self.earlier.made[one.condition].plan != planned:
                raise Mismatch(
                    f"the earlier scores of {one.arm}, training {one.seed}, were made with another recipe, base model, "
                    "set of people or sampling: run with the same, or leave out --earlier"
                )

    def _train(self, job: Job) -> Trained:
        source = trained_as(job.arm)
        if (source.name, job.seed) not in self.trained:
            self.trained[source.name, job.seed] = self.lab.train(source, job.seed)
        return self.trained[source.name, job.seed]


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
