"""From samples to measures: measure each picture once, then summarise by person and condition."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import BadFile, NoFace
from . import measures
from .attributes import AttributeJudge, adherence, parse
from .recognisers import RecognisedFace, Recogniser
from .samples import Sample

Pictures = Callable[[Path], np.ndarray]  # RGB uint8 [H, W, 3]
Scorer = Callable[[np.ndarray, str], float]  # picture, prompt → their similarity


@dataclass(frozen=True)
class SampleScores:
    """A sample and its measures by name. A measure that does not apply is absent."""

    sample: Sample
    values: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """Summary of one condition.

    values         measure → (mean, low, high)
    against_first  measure → (mean, low, high) of the paired difference to the first condition
    """

    condition: str
    pictures: int
    people: int
    values: dict[str, tuple[float, float, float]]
    against_first: dict[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The measures of all pictures and their summaries.

    notes  what was left out, and why
    """

    rows: list[SampleScores]
    summaries: list[Summary]
    recognisers: list[str]
    notes: list[str]


class Evaluator:
    """Measures pictures with one or more recognisers. The first also gives the key points.

    recognisers   see `recognisers.Recogniser`
    open_picture  path → RGB uint8 [H, W, 3]
    score         similarity of picture and prompt, or None
    others        pictures of other people; their mean embedding is subtracted, because similar pictures share a bias
    judge         reads a picture's attributes, for samples with `attributes`; or None
    notes         notes on the input, which begin those of the evaluation
    """

    def __init__(
        self,
        recognisers: list[Recogniser],
        open_picture: Pictures,
        score: Scorer | None = None,
        others: list[Path] | None = None,
        judge: AttributeJudge | None = None,
        notes: Iterable[str] = (),
    ):
        self.recognisers, self._open, self._score, self._judge = recognisers, open_picture, score, judge
        self._recognised: dict[tuple[str, Path], RecognisedFace | None] = {}
        self.notes = list(notes)
        self.centres: list[Tensor | None] = [self._centre(recogniser, others or []) for recogniser in recognisers]

    def note(self, text: str) -> None:
        """Add to the notes what is not there yet."""
        if text not in self.notes:
            self.notes.append(text)

    def _centre(self, recogniser: Recogniser, others: list[Path]) -> Tensor | None:
        found, faceless = [], 0
        for path in others:
            try:
                face = self._recognise(recogniser, path)
            except BadFile as error:
                self.note(f"others: {error}")
                continue
            if face is None:
                faceless += 1
            else:
                found.append(face.embedding)
        if others and not found:
            self.note(f"others have no effect on the similarity by {recogniser.name}: no face was found in them")
        elif faceless:
            self.note(f"others: {recogniser.name} found no face in {faceless} of {len(others)} pictures")
        return torch.stack(found).mean(0) if found else None

    def _recognise(self, recogniser: Recogniser, path: Path) -> RecognisedFace | None:
        key = (recogniser.name, path)
        if key not in self._recognised:
            self._recognised[key] = recogniser.recognise(self._open(path))
        return self._recognised[key]

    def run(self, samples: list[Sample], progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Measure all samples. Notes name those that are left out: an unreadable file, a reference or held-out photo in
        which the first recogniser finds no face. Raises the first of these errors (BadFile, NoFace) if none is left.
        """
        rows, errors = [], []
        for number, sample in enumerate(samples, 1):
            try:
                rows.append(SampleScores(sample, self._numbers(sample)))
            except (BadFile, NoFace) as error:
                errors.append(error)
            if progress is not None:
                progress(number, len(samples))
        if errors and not rows:
            raise errors[0]
        for text, count in Counter(map(str, errors)).items():
            self.note(f"{count} picture{'s' * (count > 1)} left out: {text}")
        rows = self._with_diversity(rows)
        return Evaluation(rows, summarise(rows), [recogniser.name for recogniser in self.recognisers], self.notes)

    def _numbers(self, sample: Sample) -> dict[str, float]:
        values: dict[str, float] = {}
        for number, (recogniser, centre) in enumerate(zip(self.recognisers, self.centres)):
            values |= self._identity_similarity(
                sample, recogniser, centre, "" if number == 0 else f"{recogniser.name} "
            )
        picture = self._open(sample.picture)
        face = self._recognise(self.recognisers[0], sample.picture)
        if face is not None and face.keypoints is not None:
            values["sharpness"] = measures.sharpness(picture, face.keypoints)
            yaw = measures.yaw(face.keypoints)
            if yaw is not None:
                values["yaw"] = yaw
                if sample.yaw is not None:
                    values["yaw error"] = abs(yaw - sample.yaw)
        if self._score is not None and sample.prompt:
            values["prompt"] = self._score(picture, sample.prompt)
        if self._judge is not None and sample.attributes:
            shown = self._judge.read(picture, None if face is None else face.keypoints)
            values |= adherence(parse(sample.attributes), shown)
        if sample.plain is not None:
            plain = self._open(sample.plain)
            if plain.shape == picture.shape:
                values["change"] = measures.change(picture, plain)
            else:
                sizes = [f"{one.shape[1]} × {one.shape[0]}" for one in (picture, plain)]
                self.note(f"change: not measured between pictures of {' and '.join(sizes)} pixels")
        return values

    def _identity_similarity(
        self, sample: Sample, recogniser: Recogniser, centre: Tensor | None, prefix: str
    ) -> dict[str, float]:
        shown = self._recognise(recogniser, sample.picture)
        paths = {"reference": sample.reference, "held out": sample.held_out}
        known = {name: self._recognise(recogniser, path) for name, path in paths.items() if path is not None}
        for name, face in known.items():
            if face is None:
                missing = f"no face was found in {paths[name]}, the {name} photo of {sample.person}"
                if not prefix:
                    raise NoFace(f"{missing}: choose another photo")
                self.note(f"{missing}, by {recogniser.name}: the person's similarity to it is left out")
        # A picture without a face counts as 0; it is never left out.
        values = {
            f"{prefix}similarity to {name}": measures.cosine(shown.embedding, face.embedding, centre)
            if shown is not None
            else 0.0
            for name, face in known.items()
            if face is not None
        }
        values[f"{prefix}face found"] = float(shown is not None)
        if shown is not None and all(known.get(name) for name in ("reference", "held out")):
            values[f"{prefix}copy-paste"] = measures.copy_paste(
                shown.embedding, known["reference"].embedding, known["held out"].embedding
            )
        return values

    def _with_diversity(self, rows: list[SampleScores]) -> list[SampleScores]:
        """Add the diversity of a person's pictures under one condition to each of them."""
        groups = defaultdict(list)
        for row in rows:
            groups[row.sample.condition, row.sample.person].append(row)
        for group in groups.values():
            if len(group) > 1:
                value = measures.diversity(self._open(row.sample.picture) for row in group)
                for row in group:
                    row.values["diversity"] = value
        return rows


def summarise(rows: list[SampleScores]) -> list[Summary]:
    """Means over people per condition, in order of appearance. Each person has equal weight."""
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
