"""Records on disk, keyed by the hash of their inputs, in shards that are written atomically.

There is no separate index: each shard's header lists its keys, and opening a store reads the headers. Reading a record
copies one row, so memory does not grow with the data set.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import BadFile, FaceCDMError
from .shard import Shard, write_shard

OPEN_FILES = 128
LEFT_OVER = 3600  # seconds after which a half-written file is deleted

logger = logging.getLogger("facecdm")


def digest(*parts: object) -> str:
    """sha256 of the parts as JSON: the key of a record made from them."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def to_half(tensor: Tensor) -> Tensor:
    """The tensor on the CPU as float16, or as float32 if float16 would overflow."""
    half = tensor.detach().cpu().half()
    return half if torch.isfinite(half).all() else tensor.detach().cpu().float()


@dataclass(frozen=True)
class RecordLocation:
    shard: str
    row: int


class Store:
    """A folder of shards. A record is one row of each tensor of its shard, or only a note.

    locations   shard and row of each record, by key
    notes       notes, by key
    """

    def __init__(self, folder: Path):
        """Read the headers. An unreadable shard counts as missing, with a warning, so it is made again."""
        self.folder = folder
        self.locations: dict[str, RecordLocation] = {}
        self.notes: dict[str, dict] = {}
        self._noted: dict[str, str] = {}  # the shard of each note
        self._sums: dict[str, list[str]] = {}  # checksum of each row, by shard
        self._open: OrderedDict[str, Shard] = OrderedDict()
        self._lock = threading.Lock()
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            try:
                shard = Shard(path)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                logger.warning("FaceCDM: %s cannot be read (%s): its records will be made again.", path, error)
                continue
            shard.close()
            self._remember(path.name, shard.keys, shard.notes, shard.sums)

    def __getstate__(self) -> dict:  # for workers in other processes
        return self.__dict__ | {"_open": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def __len__(self) -> int:
        """Number of records and notes."""
        return len(self.locations.keys() | self.notes.keys())

    def __contains__(self, key: str) -> bool:
        return key in self.locations or key in self.notes

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
        shard = Shard(path)
        shard.close()
        self._remember(name, keys, notes, shard.sums)

    def rows(self, keys: list[str], name: str) -> list[Tensor]:
        """The tensor `name` of each record, as stored. Raises BadFile if a record is missing."""
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            location = self.locations.get(key)
            if location is None:
                raise BadFile(
                    f"{self.folder} lacks a record of the data set: prepare the data set again "
                    "(only what is missing is made)"
                )
            by_shard.setdefault(location.shard, []).append((number, location.row))
        out: dict[int, Tensor] = {}
        for shard, wanted in by_shard.items():
            try:
                with self._lock:
                    file = self._file(shard)
                    out |= {number: file.row(name, row) for number, row in wanted}
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise BadFile(
                    f"{self.folder / shard} is damaged ({error}): delete it and prepare the data set again (only what "
                    "is missing is made)"
                ) from error
        return [out[number] for number in range(len(keys))]

    def prune(self, wanted: set[str]) -> int:
        """Delete the shards without any `wanted` key; returns the number of bytes freed."""
        useful = {location.shard for key, location in self.locations.items() if key in wanted}
        useful |= {shard for key, shard in self._noted.items() if key in wanted}
        free = 0
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else ():
            if path.name not in useful:
                free += path.stat().st_size
                self._close(path.name)
                path.unlink()
        self.locations = {key: location for key, location in self.locations.items() if location.shard in useful}
        self.notes = {key: note for key, note in self.notes.items() if self._noted[key] in useful}
        return free

    def sweep(self) -> None:
        """Delete half-written files left by a killed process."""
        for path in self.folder.glob(".*.part") if self.folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink(missing_ok=True)

    def _remember(self, shard: str, keys: list[str], notes: dict[str, dict], sums: dict[str, list[str]]) -> None:
        self.locations.update((key, RecordLocation(shard, row)) for row, key in enumerate(keys))
        self.notes.update(notes)
        self._noted.update((key, shard) for key in notes)
        if sums:
            self._sums[shard] = [digest(*column) for column in zip(*(sums[name] for name in sorted(sums)))]

    def checksum(self, key: str) -> str:
        """Checksum of all tensors of a record; "" if its shard has none."""
        location = self.locations[key]
        return self._sums[location.shard][location.row] if location.shard in self._sums else ""

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
