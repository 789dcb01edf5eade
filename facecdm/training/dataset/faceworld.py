"""FaceWorld's file layout (`SPLIT.jsonl` beside `SPLIT/NN.tar`) as a source."""

import functools
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ...demo.data import read_labels
from ...errors import BadFile
from .sources import Item, decode_file


@dataclass(frozen=True)
class FaceWorldSource:
    """Whole splits of FaceWorld.

    people   number of identities of each split; None: all
    views    number of views of each identity; None: all
    """

    root: Path
    splits: tuple[str, ...] = ("train", "wide")
    people: int | None = None
    views: int | None = None

    def describe(self) -> str:
        return f"FaceWorld {' + '.join(self.splits)}"

    def items(self) -> list[Item]:
        """The items in the order of the label files. Raises MissingModel, BadFile (a picture is in no tar file)."""
        labels = [label for split in self.splits for label in self._labels(split)]
        members = {}
        for shard in sorted({label["shard"] for label in labels}):
            with tarfile.open(self.root / shard) as archive:
                members |= {member.name: (self.root / shard, member.offset_data, member.size) for member in archive}
        lacking = [label["file"] for label in labels if label["file"] not in members]
        if lacking:
            raise BadFile(
                f"{self.root}: {len(lacking)} pictures of the label files are in no shard, such as "
                f"{lacking[0]}; copy FaceWorld again"
            )
        return [
            Item(
                label["file"],
                functools.partial(_read, *members[label["file"]]),
                decode_file,
                label["caption"],
                label["identity"],
                (label["yaw"], label["pitch"], label["roll"]),
            )
            for label in labels
        ]

    def _labels(self, split: str) -> list[dict]:
        labels = read_labels(self.root, (split,))
        if self.people is not None:
            kept = set(list(dict.fromkeys(label["identity"] for label in labels))[: self.people])
            labels = [label for label in labels if label["identity"] in kept]
        return [label for label in labels if self.views is None or label["view"] < self.views]


def _read(tar: Path, offset: int, size: int) -> bytes:
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size)
