"""What a data set keeps of every picture in memory: the person and the bucket."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BadFile
from .manifest import STAGES, Record
from .shard import Shard
from .store import AGAIN, UNREADABLE


class Groups(Mapping[int, list[int]]):
    """The indices of the pictures of each label, the labels in the order of their first pictures.

    Its memory is some 16 bytes a picture.
    """

    def __init__(self, labels: np.ndarray):
        """labels  [N] int32"""
        self._labels, first, counts = np.unique(labels, return_index=True, return_counts=True)
        self._order = np.argsort(first).astype(np.int32)
        self._pictures = np.argsort(labels, kind="stable").astype(np.int32)
        self._ends = np.cumsum(counts).astype(np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[int]:
        return (int(self._labels[number]) for number in self._order)

    def __getitem__(self, label: int) -> list[int]:
        number = int(np.searchsorted(self._labels, label))
        if number == len(self._labels) or self._labels[number] != label:
            raise KeyError(label)
        return self._pictures[self._ends[number - 1] if number else 0 : self._ends[number]].tolist()


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of the pictures.

    identities   [N] int32, the person's number
    sizes        the buckets (height, width)
    buckets      [N] int32, the number of the bucket in `sizes`
    landmarks    whether every face has landmarks
    """

    identities: np.ndarray
    sizes: list[tuple[int, int]]
    buckets: np.ndarray
    landmarks: bool

    @property
    def pictures_by_bucket(self) -> list[array]:
        """The indices of the pictures of each bucket, the largest bucket first."""
        groups = Groups(self.buckets)
        order = sorted(groups, key=lambda number: (-len(groups[number]), self.sizes[number]))
        return [array("i", groups[number]) for number in order]


def read_columns(entries: Iterable[Record], folder: Path) -> Columns:
    """Read every picture once, and the header of every shard with records of them. Raises BadFile."""
    identities, buckets, sizes = array("i"), array("i"), {}
    shards: list[dict[str, str]] = [{} for _ in STAGES]  # the first picture with a record in the shard, by its name
    for entry in entries:
        identities.append(entry.identity)
        buckets.append(sizes.setdefault(entry.bucket, len(sizes)))
        for found, place in zip(shards, entry.at):
            if place is not None:
                found.setdefault(place.shard, entry.name)
    landmarks = True
    for stage, found in zip(STAGES, shards):
        for name, picture in found.items():
            shard = _open(folder / stage / name, picture)
            landmarks &= stage != "faces" or shard.row_shape("landmarks")[0] > 0
    return Columns(np.asarray(identities), list(sizes), np.asarray(buckets), landmarks)


def _open(path: Path, picture: str) -> Shard:
    try:
        shard = Shard(path)
    except UNREADABLE as error:
        raise BadFile(
            f"{path.parent} lacks a record of {picture}, since {path.name} cannot be read ({error}): {AGAIN}"
        ) from error
    shard.close()
    return shard
