"""The pictures that are held out: kept from training, used to measure."""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

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


def _spaced(values: list[int], count: int) -> list[int]:
    return [values[int((number + 0.5) * len(values) / count)] for number in range(max(count, 0))]
