"""Records on disk, keyed by the hash of their inputs, in shards that are written atomically.

There is no separate index: each shard's header lists its keys. Whoever knows a record's shard and row reads it with
`ShardReader`; `Store` finds records by key, for which it reads every header when it is opened. Reading a record copies
one row, and the keys are kept on disk, so memory does not grow with the data set.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import BadFile, FaceCDMError
from .disk import DiskDict
from .shard import Shard, write_shard

OPEN_FILES = 128
LEFT_OVER = 3600  # seconds after which a half-written file is deleted
AGAIN = "prepare the data set again (only what is missing is made)"
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

logger = logging.getLogger("facecdm")


def digest(*parts: object) -> str:
    """sha256 of the parts as JSON: the key of a record made from them."""
    return hashlib.sha256(_json(parts).encode()).hexdigest()


def digest_with_list(items: Iterable[object], *parts: object) -> str:
    """`digest` of parts that end with an empty list, with the items in that list; they are not kept in memory."""
    head, _, tail = _json(parts).rpartition("[]")
    total = hashlib.sha256(f"{head}[".encode())
    for number, item in enumerate(items):
        total.update(f"{', ' if number else ''}{_json(item)}".encode())
    total.update(f"]{tail}".encode())
    return total.hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def to_half(tensor: Tensor) -> Tensor:
    """The tensor on the CPU as float16, or as float32 if float16 would overflow."""
    half = tensor.detach().cpu().half()
    return half if torch.isfinite(half).all() else tensor.detach().cpu().float()


class RecordLocation(NamedTuple):
    """Where a record is: the shard's file name, and the row in its tensors."""

    shard: str
    row: int


class ShardReader:
    """Reads the records of a folder of shards by their locations."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:  # for workers in other processes
        return self.__dict__ | {"_open": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def read(self, records: Sequence[tuple[str, RecordLocation]], name: str) -> list[Tensor]:
        """The tensor `name` of each record, given as (key, location), as stored.

        Raises BadFile if a shard is damaged, or holds another record there.
        """
        by_shard: dict[str, list[int]] = {}
        for number, (_, location) in enumerate(records):
            by_shard.setdefault(location.shard, []).append(number)
        out: dict[int, Tensor] = {}
        for shard, wanted in by_shard.items():
            with self._reading(shard) as file:
                for number in wanted:
                    key, location = records[number]
                    file.check_key(key, location.row)
                    out[number] = file.row(name, location.row)
        return [out[number] for number in range(len(records))]

    def checksum(self, key: str, location: RecordLocation) -> str:
        """Checksum of all tensors of a record; "" if its shard has none. Raises BadFile."""
        with self._reading(location.shard) as file:
            file.check_key(key, location.row)
            return digest(*(file.sums[name][location.row] for name in sorted(file.sums))) if file.sums else ""

    @contextmanager
    def _reading(self, shard: str) -> Iterator[Shard]:
        """The open shard. Raises BadFile for every error of reading in the block."""
        try:
            with self._lock:
                yield self._file(shard)
        except UNREADABLE as error:
            raise BadFile(f"{self.folder / shard} is damaged ({error}): delete it and {AGAIN}") from error

    def _file(self, shard: str) -> Shard:
        if shard not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[shard] = Shard(self.folder / shard)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _close(self, shard: str) -> None:
        if shard in self._open:
            self._open.pop(shard).close()


class Store(ShardReader):
    """A folder of shards. A record is one row of each tensor of its shard, or only a note.

    locations   shard and row of each record, by key
    notes       notes, by key
    """

    def __init__(self, folder: Path):
        """Read the headers. An unreadable shard counts as missing, with a warning, so it is made again."""
        super().__init__(folder)
        self._read_headers()

    def __bool__(self) -> bool:
        """Whether there is any record or note."""
        return bool(self._locations) or bool(self._notes)

    def __contains__(self, key: str) -> bool:
        return key in self._locations or key in self._notes

    def location(self, key: str) -> RecordLocation | None:
        """A record's location; None if there is no such record."""
        found = self._locations.get(key)
        return found and RecordLocation(*found)

    def note(self, key: str) -> dict:
        """A record's note. Raises KeyError if it has none."""
        return self._notes[key][1]

    def add(self, keys: list[str], tensors: dict[str, Tensor], notes: dict[str, dict] | None = None) -> None:
        """Write one shard: row i of every tensor belongs to keys[i]; notes may have further keys, without rows.

        The file's name is made from its keys, so repeated work gives the same file.
        """
        from safetensors import SafetensorError  # also for a full disk

        notes = notes or {}
        name = digest(sorted({*keys, *notes}))[:24] + ".safetensors"
        path, partial = self.folder / name, self.folder / f".{name}.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_shard(partial, keys, tensors, notes)
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            partial.chmod(0o644)  # safetensors makes it readable by the owner only
            self._close(name)
            os.replace(partial, path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise FaceCDMError(
                f"{path} could not be written: {error}. Check the folder's permissions and the free "
                "space; what is done already is kept."
            ) from error
        self._remember(name, keys, notes)

    def rows(self, keys: Sequence[str], name: str) -> list[Tensor]:
        """The tensor `name` of each record, as stored. Raises BadFile if a record is missing."""
        records = []
        for key in keys:
            location = self.location(key)
            if location is None:
                raise BadFile(f"{self.folder} lacks a record of the data set: {AGAIN}")
            records.append((key, location))
        return self.read(records, name)

    def prune(self, wanted: Iterable[str]) -> int:
        """Delete the shards without any `wanted` key; returns the number of bytes freed."""
        useful = set()
        for key in wanted:
            places = self._locations.get(key), self._notes.get(key)
            useful |= {place[0] for place in places if place is not None}
        free = 0
        for path in self._paths():
            if path.name not in useful:
                free += path.stat().st_size
                self._close(path.name)
                path.unlink()
        self._read_headers()
        return free

    def sweep(self) -> None:
        """Delete half-written files left by a killed process."""
        for path in self.folder.glob(".*.part") if self.folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else []

    def _read_headers(self) -> None:
        self._locations, self._notes = DiskDict(), DiskDict()  # notes with the name of their shard
        for path in self._paths():
            try:
                shard = Shard(path)
            except UNREADABLE as error:
                logger.warning("FaceCDM: %s cannot be read (%s): its records will be made again.", path, error)
                continue
            shard.close()
            self._remember(path.name, shard.keys, shard.notes)

    def _remember(self, shard: str, keys: list[str], notes: dict[str, dict]) -> None:
        self._locations.put((key, (shard, row)) for row, key in enumerate(keys))
        self._notes.put((key, (shard, note)) for key, note in notes.items())
