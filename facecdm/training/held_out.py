"""The pictures that are held out: kept from training, used to measure."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from .source import Source

HELD_OUT = 0.02  # the share that is held out unless the user says otherwise


def choose_held_out(data: "Source", share: float) -> frozenset[int]:
    """Choose a `share` (0…1) of the people, evenly spaced, with all their pictures. At least one person is not chosen.

    If that is less than one person, choose `share` of the pictures, only from people with several pictures.
    """
    people = sorted(data.people)
    chosen = _spaced(people, min(round(len(people) * share), len(people) - 1))
    if chosen:
        return frozenset(picture for person in chosen for picture in data.people[person])
    several = [picture for pictures in data.people.values() if len(pictures) > 1 for picture in sorted(pictures)]
    return frozenset(_spaced(several, min(round(len(data) * share), len(several) - 1)))


def without(buckets: Sequence[Sequence[int]], held_out: frozenset[int]) -> list[array]:
    """The buckets without the indices that are held out; empty buckets are left out."""
    kept = (array("i", (index for index in bucket if index not in held_out)) for bucket in buckets)
    return [bucket for bucket in kept if bucket]


def training_part(data: "Source", held_out: frozenset[int]) -> "Source":
    """The data set without the pictures that are held out, for what is fitted to it; itself if none are."""
    return TrainingPart(data, held_out) if held_out else data


def count_people(data: "Source") -> int:
    """The number of people of a data set, or of the whole data set that a part belongs to."""
    return len(data.whole.people if isinstance(data, TrainingPart) else data.people)


class TrainingPart:
    """A `Source` without held-out pictures in its buckets, people, mean face and length.

    Indices are those of `whole`, so held-out pictures can still be loaded.
    """

    def __init__(self, whole: "Source", held_out: frozenset[int]):
        self.whole, self._held_out = whole, held_out
        self.buckets = without(whole.buckets, held_out)
        self.people = _PeopleWithout(whole.people, held_out)

    def __getattr__(self, name: str):
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    @cached_property
    @torch.inference_mode(False)
    def mean_face(self) -> Tensor:
        total: Tensor | float = 0.0
        for bucket in self.buckets:
            for start in range(0, len(bucket), 1024):
                face, _ = self.whole.features(bucket[start : start + 1024].tolist(), vision=False)
                total += F.normalize(face, dim=1).sum(0)
        return total / len(self)


class _PeopleWithout(Mapping[int, list[int]]):
    """The pictures of each person that are not held out; people without any are left out."""

    def __init__(self, people: Mapping[int, list[int]], held_out: frozenset[int]):
        self._people, self._held_out = people, held_out
        self._kept = array("q", (person for person in people if not held_out.issuperset(people[person])))

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __getitem__(self, person: int) -> list[int]:
        if kept := [picture for picture in self._people[person] if picture not in self._held_out]:
            return kept
        raise KeyError(person)


def _spaced(values: list[int], count: int) -> list[int]:
    return [values[int((number + 0.5) * len(values) / count)] for number in range(max(count, 0))]
