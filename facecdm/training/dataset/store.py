"""Records on disk, found by the hash of what they were made from: safetensors shards that appear whole or not at all.

There is no index to fall out of step: each shard's header names its keys, and the headers are read when a store is
opened. Reading a record maps the file into memory and copies one row, so memory does not grow with the data set.
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

FORMAT = "facecdm.records/1"
OPEN_FILES = 128
MANY = 8  # rows of one shard that are better read together
LEFT_OVER = 3600  # seconds after which a half-written file belongs to nobody

logger = logging.getLogger("facecdm")


def digest(*parts: object) -> str:
    """sha256 of the parts as JSON: the key of whatever is made from them."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def to_half(tensor: Tensor) -> Tensor:
    """float16 on the CPU; float32 where float16 would overflow."""
    half = tensor.detach().cpu().half()
    return half if torch.isfinite(half).all() else tensor.detach().cpu().float()


@dataclass(frozen=True)
class RecordLocation:
    shard: str
    row: int


class Store:
    """A folder of shards. Keys are strings; a record is a row of each of its shard's tensors, or only a note."""

    def __init__(self, folder: Path):
        """Reads the headers. A shard that cannot be read counts as absent, with a warning: it is made anew."""
        self.folder = folder
        self.places: dict[str, RecordLocation] = {}
        self.notes: dict[str, dict] = {}
        self._noted: dict[str, str] = {}  # the shard of each note
        self._open: OrderedDict[str, object] = OrderedDict()
        self._lock = threading.Lock()
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
            try:
                self._learn(path)
            except Exception as error:  # safetensors, JSON and the system each have their own
                logger.warning("FaceCDM: %s cannot be read (%s): what it held will be made anew.", path, error)

    def __getstate__(self) -> dict:  # for workers in other processes
        return self.__dict__ | {"_open": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}

    def __contains__(self, key: str) -> bool:
        return key in self.places or key in self.notes

    def add(self, keys: list[str], tensors: dict[str, Tensor], notes: dict[str, dict] | None = None) -> None:
        """Write one shard: row i of every tensor belongs to keys[i]; notes may have further keys, without rows.

        The file's name comes from its keys, so the same work done twice gives the same file.
        """
        from safetensors.torch import save_file

        notes = notes or {}
        name = digest(sorted({*keys, *notes}))[:24] + ".safetensors"
        path, partial = self.folder / name, self.folder / f".{name}.{os.getpid()}.part"
        metadata = {"format": FORMAT, "keys": json.dumps(keys), "notes": json.dumps(notes, ensure_ascii=False)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
            partial.chmod(0o644)  # safetensors writes for the owner alone
            self._open.pop(name, None)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise FaceCDMError(
                f"{path} could not be written: {error}. Look at the folder's rights and the free "
                "space; what is done already is kept."
            ) from error
        self._remember(name, keys, notes)

    def rows(self, keys: list[str], name: str) -> list[Tensor]:
        """The tensor of that name of each record, as stored. Raises BadFile where a record is gone."""
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            place = self.places.get(key)
            if place is None:
                raise BadFile(
                    f"{self.folder} lacks a record of the data set: prepare the data set again "
                    "(only what is missing is made)"
                )
            by_shard.setdefault(place.shard, []).append((number, place.row))
        out: dict[int, Tensor] = {}
        for shard, places in by_shard.items():
            try:
                with self._lock:
                    out |= _read(self._file(shard), name, places)
            except Exception as error:
                raise BadFile(
                    f"{self.folder / shard} cannot be read ({error}): delete it and prepare the data set "
                    "again (only what is missing is made)"
                ) from error
        return [out[number] for number in range(len(keys))]

    def prune(self, wanted: set[str]) -> int:
        """Delete the shards that hold nothing of `wanted`; gives the bytes that became free."""
        useful = {place.shard for key, place in self.places.items() if key in wanted}
        useful |= {shard for key, shard in self._noted.items() if key in wanted}
        free = 0
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else ():
            if path.name not in useful:
                free += path.stat().st_size
                self._open.pop(path.name, None)
                path.unlink()
        self.places = {key: place for key, place in self.places.items() if place.shard in useful}
        self.notes = {key: note for key, note in self.notes.items() if self._noted[key] in useful}
        return free

    def sweep(self) -> None:
        """Delete half-written files that a killed process left."""
        for path in self.folder.glob(".*.part") if self.folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > LEFT_OVER:
                path.unlink(missing_ok=True)

    def _learn(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}")
            self._remember(path.name, json.loads(metadata["keys"]), json.loads(metadata["notes"]))

    def _remember(self, shard: str, keys: list[str], notes: dict[str, dict]) -> None:
        self.places.update((key, RecordLocation(shard, row)) for row, key in enumerate(keys))
        self.notes.update(notes)
        self._noted.update((key, shard) for key in notes)

    def _file(self, shard: str):
        from safetensors import safe_open

        if shard not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
            self._open[shard] = safe_open(self.folder / shard, "pt")
        self._open.move_to_end(shard)
        return self._open[shard]


def _read(file, name: str, places: list[tuple[int, int]]) -> dict[int, Tensor]:
    """(number, row) → number: row's tensor. Only the rows' pages are read from the disk."""
    if len(places) > MANY:
        whole = file.get_tensor(name)
        return {number: whole[row].clone() for number, row in places}
    rows = file.get_slice(name)
    return {number: rows[row : row + 1][0] for number, row in places}
