"""What the pictures are worth, by the pack's own evaluation; a picture that was looked at is not looked at again."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from facecdm.evaluation.evaluate import Evaluation, Evaluator, SampleScores, summarise
from facecdm.evaluation.recognisers import RecognisedFace, Recogniser
from facecdm.evaluation.samples import Sample

from .arms import FACE, NONE, TRIPLET, arm
from .people import Cast

# What the tables show, where it was measured, under the names that the evaluation gives it.
SHOWN = (
    "similarity to held out",
    "similarity to reference",
    "dlib similarity to held out",
    "dlib similarity to reference",
    "copy-paste",
    "dlib copy-paste",
    "face found",
    "prompt",
    "sharpness",
    "diversity",
    "yaw error",
)


@dataclass(frozen=True)
class Drawn:
    """The pictures of one training and one way to draw, in the cast's order; a `strength` belongs to the curve."""

    arm: str
    seed: int
    paths: list[Path]
    strength: float | None = None

    @property
    def condition(self) -> str:
        return f"{self.arm}/{self.seed}/{self.strength}"


class Remembered:
    """A recogniser that writes down what it saw, one JSON line a picture."""

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
            seen = self._recogniser.recognise(picture)
            points = None if seen is None or seen.keypoints is None else np.asarray(seen.keypoints).tolist()
            self._known[key] = None if seen is None else [seen.embedding.tolist(), points]
            with self._file.open("a") as file:
                file.write("\n" + json.dumps({key: self._known[key]}))
        if self._known[key] is None:
            return None
        embedding, points = self._known[key]
        return RecognisedFace(torch.tensor(embedding), None if points is None else np.array(points, np.float32))


@dataclass(frozen=True, eq=False)
class Judge:
    """Looks at everything that was drawn."""

    evaluator: Evaluator
    cast: Cast
    poses: bool = False

    def look(self, one: Drawn, plain: list[Path]) -> list[SampleScores]:
        """A row for every picture; `plain` are the same without identity."""
        return self.evaluator.run([self._sample(place, one, plain) for place in range(len(one.paths))]).rows

    def _sample(self, place: int, one: Drawn, plain: list[Path]) -> Sample:
        asked, cast = self.cast.asked[place], self.cast
        return Sample(
            one.paths[place],
            cast.names[asked.person],
            one.condition,
            cast.references[asked.person],
            cast.held_out[asked.person],
            asked.words,
            plain[place],
            asked.yaw if self.poses else None,
            one.strength,
        )

    def of_arms(self, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        """All arms, their trainings together, against *no identity*."""
        return self._against(NONE, rows, [one for one in drawn if one.strength is None])

    def of_headline(self, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        """The arms that have several trainings, together, against *face alone*."""
        return self._against(FACE, rows, [one for one in drawn if one.strength is None and arm(one.arm).headline])

    def of_one_training(self, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        """What else differs from the triplet, against the triplet's first training."""
        return self._against(
            TRIPLET,
            rows,
            [one for one in drawn if one.strength is None and one.seed == 0 and one.arm not in (NONE, FACE)],
        )

    def _against(self, first: str, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        """Empty where arm `first` was not drawn."""
        names = {one.condition: one.arm for one in drawn} if any(one.arm == first for one in drawn) else {}
        chosen = [self._row(row, names[row.sample.condition]) for row in rows if row.sample.condition in names]
        return self._evaluation(sorted(chosen, key=lambda row: row.sample.condition != first))

    def of_seeds(self, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        """Each training by itself, of the arms that have several."""
        arms = [one.arm for one in drawn if one.strength is None]
        names = {
            one.condition: f"{one.arm}, seed {one.seed}"
            for one in drawn
            if one.strength is None and arms.count(one.arm) > 1
        }
        chosen = [self._row(row, names[row.sample.condition]) for row in rows if row.sample.condition in names]
        return self._evaluation(sorted(chosen, key=lambda row: row.sample.condition))

    def of_strengths(self, rows: list[SampleScores], drawn: list[Drawn]) -> Evaluation:
        names = {one.condition: f"strength {one.strength:g}" for one in drawn if one.strength is not None}
        return self._evaluation(
            [self._row(row, names[row.sample.condition]) for row in rows if row.sample.condition in names]
        )

    def _row(self, row: SampleScores, condition: str) -> SampleScores:
        values = {name: row.values[name] for name in SHOWN if name in row.values}
        return SampleScores(replace(row.sample, condition=condition), values)

    def _evaluation(self, rows: list[SampleScores]) -> Evaluation:
        return Evaluation(rows, summarise(rows), [one.name for one in self.evaluator.recognisers], [])


def verdicts(evaluations: list[Evaluation]) -> list[str]:
    """In plain words: where an interval of the paired difference leaves 0 out, and where it does not."""
    lines = []
    for evaluation in evaluations:
        for summary in evaluation.summaries[1:]:
            parts = [
                f"{what}: {_verdict(summary.against_first[name])}"
                for name, what in (
                    ("similarity to held out", "likeness"),
                    ("dlib similarity to held out", "likeness by dlib"),
                    ("prompt", "prompt"),
                )
                if name in summary.against_first
            ]
            lines.append(f"*{summary.condition}* against *{evaluation.summaries[0].condition}*: {'; '.join(parts)}")
    return lines


def _verdict(difference: tuple[float, float, float]) -> str:
    mean, low, high = difference
    return f"{'higher' if low > 0 else 'lower' if high < 0 else 'not told apart'} ({mean:+.3f})"
