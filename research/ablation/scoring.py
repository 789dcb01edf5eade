"""Scores of the images by facecdm.evaluation; recognised faces are cached."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facecdm.errors import FaceCDMError
from facecdm.evaluation.attributes import ALL
from facecdm.evaluation.evaluate import Evaluation, Evaluator, SampleScores, by_person, summarise
from facecdm.evaluation.recognisers import RecognisedFace, Recogniser
from facecdm.evaluation.samples import Sample

from .arms import NONE, NONE_POSELESS, POSELESS, TRIPLET
from .people import EvaluationSet

# The measures that are reported, by the evaluation's names, and those of every attribute.
MEASURES = (
    "similarity to held out",
    "similarity to reference",
    "dlib similarity to held out",
    "dlib similarity to reference",
    "copy-paste",
    "dlib copy-paste",
    "face found",
    "sharpness",
    "diversity",
    "yaw error",
)
REAL = "real pictures"
POSE_PAIRS = ((NONE, NONE_POSELESS), (TRIPLET, POSELESS))  # with and without the pose ControlNet


def person_means(rows: list[SampleScores]) -> list[SampleScores]:
    """A row for each condition and person: the means of the reported measures over the images.

    So each training counts once per person, however many of its images have a face.
    """
    groups: dict[tuple[str, str], list[SampleScores]] = {}
    for row in rows:
        groups.setdefault((row.sample.condition, row.sample.person), []).append(row)
    return [
        SampleScores(
            own[0].sample,
            {
                name: people[person]
                for name, people in by_person(own).items()
                if name in MEASURES or name.startswith(ALL)
            },
        )
        for (_, person), own in groups.items()
    ]


@dataclass(frozen=True)
class Generated:
    """The images of one training and arm.

    paths        in the order of the requests; none for those of an earlier run elsewhere
    strength     of images that belong to the curve
    weights      number of weights that were trained; 0 without an adapter
    fingerprint  of what decides the images and their scores (see Experiment.fingerprint)
    """

    arm: str
    seed: int
    paths: list[Path]
    strength: float | None = None
    weights: int = 0
    fingerprint: str = ""

    @property
    def condition(self) -> str:
        return f"{self.arm}/{self.seed}/{self.strength}"

    @property
    def line(self) -> str:
        """The curve that the images belong to; "" for none."""
        return "" if self.strength is None else self.arm


class CachedRecogniser:
    """A recogniser that caches its results, one JSON line per image."""

    def __init__(self, recogniser: Recogniser, file: Path):
        self._recogniser, self._file, self.name = recogniser, file, recogniser.name
        self._known: dict[str, list | None] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            try:
                self._known |= json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
        file.parent.mkdir(parents=True, exist_ok=True)

    def recognise(self, picture: np.ndarray) -> RecognisedFace | None:
        key = hashlib.sha256(repr(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()
        if key not in self._known:
            face = self._recogniser.recognise(picture)
            points = None if face is None or face.keypoints is None else np.asarray(face.keypoints).tolist()
            self._known[key] = None if face is None else [face.embedding.tolist(), points]
            with self._file.open("a") as file:
                file.write("\n" + json.dumps({key: self._known[key]}))
        if self._known[key] is None:
            return None
        embedding, points = self._known[key]
        return RecognisedFace(torch.tensor(embedding), None if points is None else np.array(points, np.float32))


@dataclass(frozen=True, eq=False)
class Scorer:
    evaluator: Evaluator
    evaluation_set: EvaluationSet
    poses: bool = False

    def score(self, one: Generated) -> list[SampleScores]:
        """Scores by person. Raises FaceCDMError if an image cannot be measured, since arms are compared by image."""
        result = self.evaluator.run([self._sample(index, one) for index in range(len(one.paths))])
        if len(result.rows) < len(one.paths):
            raise FaceCDMError(f"{one.condition}: {'; '.join(result.notes)}")
        return person_means(result.rows)

    def score_real(self) -> list[SampleScores]:
        """Scores of the real pictures that the prompts describe: how well the measures read them."""
        return self.score(Generated(REAL, 0, self.evaluation_set.described))

    def _sample(self, index: int, one: Generated) -> Sample:
        request, evaluation_set = self.evaluation_set.requests[index], self.evaluation_set
        return Sample(
            one.paths[index],
            evaluation_set.names[request.person],
            one.condition,
            evaluation_set.references[request.person],
            evaluation_set.held_out[request.person],
            request.prompt,
            yaw=request.yaw if self.poses else None,
            strength=one.strength,
            attributes=request.attributes,
            line=one.line,
        )

    def of_arms(self, rows: list[SampleScores], generated: list[Generated]) -> Evaluation:
        """All arms, with all trainings of each, against *no identity*."""
        return self._against(NONE, rows, [one for one in generated if one.strength is None])

    def of_triplet(self, rows: list[SampleScores], generated: list[Generated]) -> Evaluation:
        """All arms, with all trainings of each, against the triplet."""
        return self._against(TRIPLET, rows, [one for one in generated if one.strength is None])

    def of_poses(self, rows: list[SampleScores], generated: list[Generated]) -> list[Evaluation]:
        """Without the pose ControlNet against with it: the base model, and the triplet's first training."""
        first = [one for one in generated if one.strength is None and one.seed == 0]
        pairs = [[one for name in pair for one in first if one.arm == name] for pair in POSE_PAIRS]
        return [self._against(pair[0].arm, rows, pair) for pair in pairs if len(pair) == 2]

    def of_real(self, real: list[SampleScores]) -> Evaluation:
        return self._evaluation([self._row(row, REAL) for row in real])

    def _against(self, first: str, rows: list[SampleScores], generated: list[Generated]) -> Evaluation:
        """Empty where arm `first` has no images."""
        names = {one.condition: one.arm for one in generated} if any(one.arm == first for one in generated) else {}
        return self._evaluation(sorted(self._named(rows, names), key=lambda row: row.sample.condition != first))

    def of_seeds(self, rows: list[SampleScores], generated: list[Generated]) -> list[Evaluation]:
        """The trainings of each arm that has several, against its first."""
        trainings: dict[str, dict[str, str]] = {}
        for one in generated:
            if one.strength is None:
                trainings.setdefault(one.arm, {})[one.condition] = f"{one.arm}, seed {one.seed}"
        chosen = [self._named(rows, trainings[arm]) for arm in sorted(trainings) if len(trainings[arm]) > 1]
        return [self._evaluation(sorted(own, key=lambda row: row.sample.condition)) for own in chosen]

    def of_strengths(self, rows: list[SampleScores], generated: list[Generated]) -> Evaluation:
        """Every strength of the arms of the curve, one line an arm, and the base model. An arm's own images are its
        point at strength 1."""
        arms = {one.arm for one in generated if one.strength is not None}
        own = {NONE: 0.0} | dict.fromkeys(arms, 1.0) if arms else {}
        points = {
            one.condition: (one.arm, own[one.arm] if one.strength is None else one.strength)
            for one in generated
            if one.arm in own and one.seed == 0
        }
        chosen = [self._point(row, *points[row.sample.condition]) for row in rows if row.sample.condition in points]
        return self._evaluation(sorted(chosen, key=lambda row: row.sample.strength))

    def _point(self, row: SampleScores, arm: str, strength: float) -> SampleScores:
        name = f"{arm}, strength {strength:g}"
        return replace(row, sample=replace(row.sample, condition=name, strength=strength, line=arm))

    def _named(self, rows: list[SampleScores], names: dict[str, str]) -> list[SampleScores]:
        """The rows of the conditions in `names`, under the names there."""
        return [self._row(row, names[row.sample.condition]) for row in rows if row.sample.condition in names]

    def _row(self, row: SampleScores, condition: str) -> SampleScores:
        return replace(row, sample=replace(row.sample, condition=condition))

    def _evaluation(self, rows: list[SampleScores]) -> Evaluation:
        return Evaluation(rows, summarise(rows), [one.name for one in self.evaluator.recognisers], [])
