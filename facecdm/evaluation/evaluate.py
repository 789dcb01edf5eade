"""From samples to numbers: every picture looked at once, people and conditions summed up with intervals."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import NoFace
from . import measures
from .recognisers import RecognisedFace, Recogniser
from .samples import Sample

Pictures = Callable[[Path], np.ndarray]  # RGB uint8 [H, W, 3]
Scorer = Callable[[np.ndarray, str], float]  # picture, prompt → how well it follows


@dataclass(frozen=True)
class SampleScores:
    """A sample and its numbers by name; a number that does not apply is absent."""

    sample: Sample
    values: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """Of one condition: (mean, low, high) by measure, and the paired difference to the first condition."""

    condition: str
    pictures: int
    people: int
    values: dict[str, tuple[float, float, float]]
    against_first: dict[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    rows: list[SampleScores]
    summaries: list[Summary]
    recognisers: list[str]
    notes: list[str]


class Evaluator:
    """Looks at pictures with one or two recognisers; the first also finds key points.

    `centres` are mean embeddings of other people, one per recogniser or None: renders of one kind share a part of
    their embeddings, which says nothing about the person.
    """

    def __init__(
        self,
        recognisers: list[Recogniser],
        open_picture: Pictures,
        score: Scorer | None = None,
        others: list[Path] | None = None,
    ):
        self.recognisers, self._open, self._score = recognisers, open_picture, score
        self._recognised: dict[tuple[str, Path], RecognisedFace | None] = {}
        self.notes: list[str] = []
        self.centres: list[Tensor | None] = [self._centre(recogniser, others or []) for recogniser in recognisers]

    def _centre(self, recogniser: Recogniser, others: list[Path]) -> Tensor | None:
        found = [seen.embedding for path in others if (seen := self._recognise(recogniser, path)) is not None]
        return torch.stack(found).mean(0) if found else None

    def _recognise(self, recogniser: Recogniser, path: Path) -> RecognisedFace | None:
        key = (recogniser.name, path)
        if key not in self._recognised:
            self._recognised[key] = recogniser.recognise(self._open(path))
        return self._recognised[key]

    def run(self, samples: list[Sample], progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Raises NoFace where a reference or held-out photo shows none to the first recogniser."""
        rows = []
        for number, sample in enumerate(samples, 1):
            rows.append(SampleScores(sample, self._numbers(sample)))
            if progress is not None:
                progress(number, len(samples))
        rows = self._with_diversity(rows)
        return Evaluation(rows, summarise(rows), [recogniser.name for recogniser in self.recognisers], self.notes)

    def _numbers(self, sample: Sample) -> dict[str, float]:
        values: dict[str, float] = {}
        for place, (recogniser, centre) in enumerate(zip(self.recognisers, self.centres)):
            values |= self._identity_similarity(sample, recogniser, centre, "" if place == 0 else f"{recogniser.name} ")
        picture = self._open(sample.picture)
        seen = self._recognise(self.recognisers[0], sample.picture)
        if seen is not None and seen.keypoints is not None:
            values["sharpness"] = measures.sharpness(picture, seen.keypoints)
            turned = measures.yaw(seen.keypoints)
            if turned is not None:
                values["yaw"] = turned
                if sample.yaw is not None:
                    values["yaw error"] = abs(turned - sample.yaw)
        if self._score is not None and sample.prompt:
            values["prompt"] = self._score(picture, sample.prompt)
        if sample.plain is not None:
            change = picture.astype(np.float32) - self._open(sample.plain).astype(np.float32)
            values["change"] = float(np.sqrt((change**2).mean()) / 255)
        return values

    def _identity_similarity(
        self, sample: Sample, recogniser: Recogniser, centre: Tensor | None, prefix: str
    ) -> dict[str, float]:
        shown = self._recognise(recogniser, sample.picture)
        known = {
            name: self._recognise(recogniser, path)
            for name, path in (("reference", sample.reference), ("held out", sample.held_out))
            if path is not None
        }
        for name, seen in known.items():
            if seen is None and not prefix:
                raise NoFace(f"no face was found in the {name} photo of {sample.person}: choose another photo")
        # A picture without a face shows nobody: it counts 0, and is never left out.
        values = {
            f"{prefix}similarity to {name}": measures.cosine(shown.embedding, seen.embedding, centre)
            if shown is not None
            else 0.0
            for name, seen in known.items()
            if seen is not None
        }
        values[f"{prefix}face found"] = float(shown is not None)
        if shown is not None and all(known.get(name) for name in ("reference", "held out")):
            values[f"{prefix}copy-paste"] = measures.copy_paste(
                shown.embedding, known["reference"].embedding, known["held out"].embedding, centre
            )
        return values

    def _with_diversity(self, rows: list[SampleScores]) -> list[SampleScores]:
        """Adds, to each picture of a person under one condition, how different the person's pictures are."""
        groups = defaultdict(list)
        for row in rows:
            groups[row.sample.condition, row.sample.person].append(row)
        for group in groups.values():
            if len(group) > 1:
                value = measures.diversity([self._open(row.sample.picture) for row in group])
                for row in group:
                    row.values["diversity"] = value
        return rows


def summarise(rows: list[SampleScores]) -> list[Summary]:
    """Each condition's means over people, in the order in which conditions come; a person's pictures count as one."""
    order = list(dict.fromkeys(row.sample.condition for row in rows))
    means = {condition: by_person([row for row in rows if row.sample.condition == condition]) for condition in order}
    summaries = []
    for condition in order:
        own = [row for row in rows if row.sample.condition == condition]
        against = {}
        if condition != order[0]:
            for name, people in means[condition].items():
                first = means[order[0]].get(name, {})
                both = {person: value - first[person] for person, value in people.items() if person in first}
                if both:
                    against[name] = measures.interval(both)
        summaries.append(
            Summary(
                condition,
                len(own),
                len({row.sample.person for row in own}),
                {name: measures.interval(people) for name, people in means[condition].items()},
                against,
            )
        )
    return summaries


def by_person(rows: list[SampleScores]) -> dict[str, dict[str, float]]:
    """measure → person → mean over the person's pictures."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, value in row.values.items():
            values[name][row.sample.person].append(value)
    return {name: {person: float(np.mean(some)) for person, some in people.items()} for name, people in values.items()}
