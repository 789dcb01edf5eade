"""The run: the order of trainings and images; the results are written after each."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from facecdm.errors import Mismatch
from facecdm.evaluation.evaluate import SampleScores

from .arms import ARMS, NONE, NOT_REQUESTED, Arm, SamplingSettings, arm, trained_as, with_strength
from .earlier import Earlier
from .results import Results
from .sampling import ImageSampler
from .scoring import Generated, Scorer
from .training import Lab, Trained, changed, digest


@dataclass(frozen=True)
class Job:
    """Images of an arm by one of its trainings, at its own strength or at one of the curve's."""

    arm: Arm
    seed: int
    strength: float | None = None

    @property
    def sampling(self) -> SamplingSettings:
        return self.arm.sampling if self.strength is None else with_strength(self.arm.sampling, self.strength)

    @property
    def condition(self) -> str:
        return Generated(self.arm.name, self.seed, [], self.strength).condition


def jobs(names: list[str], seeds: int, strengths: list[float] | None = None) -> list[Job]:
    """Every arm's first training, the curves, then the headline's other seeds: an early table says the most.

    An arm's own images are the curve's point at strength 1. `strengths` replace those of all arms that have any.
    """
    chosen = [one for one in ARMS if one.name in names or one.name == NONE]
    first = [Job(one, 0) for one in chosen]
    curve = [
        Job(one, 0, strength)
        for one in chosen
        if one.strengths
        for strength in (one.strengths if strengths is None else strengths)
        if strength != 1
    ]
    more = [Job(one, seed) for seed in range(1, seeds) for one in chosen if one.headline]
    return first + curve + more


@dataclass(eq=False)
class Experiment:
    """`run` does what is not done yet.

    wanted    conditions of all arms, in the order of the table
    left_out  arms that are not run, and why
    earlier   scores of runs on other machines; their conditions are not sampled again
    trained   the trainings of this run, by arm and seed
    """

    lab: Lab
    sampler: ImageSampler
    scorer: Scorer
    out: Path
    jobs: list[Job]
    settings: dict
    wanted: list[str]
    left_out: dict[str, str] = field(default_factory=dict)
    earlier: Earlier = field(default_factory=Earlier)
    trained: dict[tuple[str, int], Trained] = field(default_factory=dict, init=False)

    def run(self) -> Results:
        """Raises Mismatch if an earlier run differs in more than its machine."""
        from tqdm import tqdm

        self._check_earlier()
        generated, rows = [self._with_images(one) for one in self.earlier.generated], list(self.earlier.rows)
        known = {one.condition for one in generated}
        todo = [job for job in self.jobs if job.condition not in known]
        real = self.scorer.score_real()
        found = self._results(generated, rows, real)
        images = len(todo) * len(self.sampler.evaluation_set.requests)
        with tqdm(total=images, desc="pictures", unit="picture", mininterval=5) as bar:
            for job in todo:
                bar.set_description(f"{job.arm.name}, seed {job.seed}")
                trained = self._train(job) if job.arm.trains else None
                paths = self.sampler.generate(trained, job.sampling, bar.update, trained_as(job.arm).design)
                weights = trained.facts["weights"] if trained else 0
                made = Generated(job.arm.name, job.seed, paths, job.strength, weights, self.fingerprint(job))
                generated.append(made)
                rows += self.scorer.score(made)
                found = self._results(generated, rows, real)
                found.write(self.out)
        if not todo:
            found.write(self.out)
        return found

    def _with_images(self, one: Generated) -> Generated:
        """An earlier condition; with its images, if they are in OUT."""
        job = Job(arm(one.arm), one.seed, one.strength)
        source = trained_as(job.arm)
        key = self.lab.key(source, job.seed) if source.trains else None
        paths = self.sampler.paths(key, job.sampling, source.design)
        return replace(one, paths=paths) if all(path.exists() for path in paths) else one

    def _results(self, generated: list[Generated], rows: list[SampleScores], real: list[SampleScores]) -> Results:
        """The results so far, in the order of the table."""
        order = list(dict.fromkeys([*self.wanted, *(one.condition for one in generated)]))
        generated = sorted(generated, key=lambda one: order.index(one.condition))
        arms = {one.arm for one in generated}
        return Results(
            self.scorer,
            sorted(rows, key=lambda row: order.index(row.sample.condition)),
            generated,
            self._facts(generated),
            self.settings,
            len(order),
            {name: why for name, why in self.left_out.items() if name not in arms},
            real,
        )

    def _facts(self, generated: list[Generated]) -> list[dict]:
        """The facts of each training; of one on another machine its weights and stages."""
        known: dict[tuple[str, int], dict] = {}
        for one in (one for one in generated if one.weights):
            source = trained_as(arm(one.arm))
            trained = self.trained.get((source.name, one.seed))
            stages = [stage.to_dict() for stage in self.lab.stages(source, one.seed)]
            planned = {"arm": source.name, "seed": one.seed, "weights": one.weights, "stages": stages}
            known.setdefault((source.name, one.seed), trained.facts if trained else planned)
        return list(known.values())

    def fingerprint(self, job: Job) -> str:
        """A digest of what decides the job's images and scores, except for the machine, the precision, the data set's
        embeddings and the judge's weights."""
        source, sampler = trained_as(job.arm), self.sampler
        denoiser = self.lab.bases.sampling(source.design)
        requests = [vars(one) for one in sampler.evaluation_set.requests]
        sampling = [
            changed(job.sampling, SamplingSettings()),
            requests,
            sampler.evaluation_set.names,
            sampler.steps,
            sampler.guidance,
        ]
        scoring = [one.name for one in self.scorer.evaluator.recognisers]
        training = self.lab.determinants(source, job.seed) if source.trains else None
        return digest([denoiser.fingerprint, denoiser.control_fingerprint, training, sampling, scoring])

    def _check_earlier(self) -> None:
        for one in self.earlier.generated:
            if one.fingerprint != self.fingerprint(Job(arm(one.arm), one.seed, one.strength)):
                raise Mismatch(
                    f"the earlier scores of {one.arm}, seed {one.seed}, were made with another recipe, base model, set "
                    "of people, sampling or recogniser: run with the same, or leave out --earlier"
                )
            people = {row.sample.person for row in self.earlier.rows if row.sample.condition == one.condition}
            if missing := set(self.sampler.evaluation_set.names) - people:
                raise Mismatch(f"the earlier scores of {one.arm}, seed {one.seed}, lack {', '.join(sorted(missing))}")

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
