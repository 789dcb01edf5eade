"""The list of a data set's pictures: `manifest.json` describes the set, `pictures.jsonl` has a line for each picture.

Lines are read when they are needed, so memory does not grow with the pictures. Data sets from earlier versions have all
pictures in manifest.json; they are read as well.
"""

import hashlib
import json
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...documents import parse_json
from ...errors import BadFile, MissingModel
from ...files import write_atomically
from ...invocation import command_line
from .store import AGAIN, RecordLocation, Store, digest, digest_with_list

WITHIN, FORMAT = "facecdm.dataset/1", "facecdm.dataset/2"  # pictures within manifest.json; in a file of their own
NAME, PICTURES = "manifest.json", "pictures.jsonl"
STAGES = ("faces", "latents", "text", "vision", "augmented")  # in the order of Keys.all(); the names of the folders


@dataclass(frozen=True)
class Keys:
    """The keys of one picture's records; "" if the data set has no such stage.

    face        embedding, key points, box, landmarks
    latents     latents of the picture cut to its bucket
    text        encoded caption
    vision      states of the CLIP vision tower
    augmented   embeddings and vision states of its variations
    """

    face: str
    latents: str
    text: str
    vision: str = ""
    augmented: str = ""

    def all(self) -> tuple[str, ...]:
        return self.face, self.latents, self.text, self.vision, self.augmented


@dataclass(frozen=True)
class Record:
    """One picture of the data set.

    key         sha256 of the picture's bytes
    name        its name in the source
    identity    the person's number
    person      the person's name
    caption     "" without one
    bucket      (height, width) in pixels
    part        the part cut to the bucket: x0, y0, x1, y1 in pixels of the picture as read
    size        (height, width) of the picture as read
    original    (height, width) of the picture in its file
    box         x0, y0, x1, y1 of the face in 0…1 of the bucket's picture
    keypoints   five pairs x, y in the same units
    score       the detector's score, 0…1
    keys        the keys of its records
    pose        yaw, pitch, roll in degrees; None: unknown
    at          where its records are, in the order of STAGES; None where its key is ""
    """

    key: str
    name: str
    identity: int
    person: str
    caption: str
    bucket: tuple[int, int]
    part: tuple[int, int, int, int]
    size: tuple[int, int]
    original: tuple[int, int]
    box: tuple[float, float, float, float]
    keypoints: tuple[tuple[float, float], ...]
    score: float
    keys: Keys
    pose: tuple[float, float, float] | None = None
    at: tuple[RecordLocation | None, ...] = ()

    def plain(self) -> dict:
        """The record as JSON values, without `at`."""
        return {name: value for name, value in vars(self).items() if name != "at"} | {"keys": vars(self.keys)}

    @classmethod
    def of(cls, plain: dict) -> "Record":
        """The record of `plain`, with or without `at`. Raises KeyError, TypeError, ValueError."""
        lists = ("bucket", "part", "size", "original", "box")
        return cls(
            **plain
            | {name: tuple(plain[name]) for name in lists}
            | {
                "keypoints": tuple((x, y) for x, y in plain["keypoints"]),
                "keys": Keys(**plain["keys"]),
                "pose": tuple(plain["pose"]) if plain["pose"] else None,
                "at": tuple(place and RecordLocation(*place) for place in plain.get("at", ())),
            }
        )


class Pictures(Sequence[Record]):
    """The lines of a pictures.jsonl, read when they are needed. Its memory is 8 bytes a line.

    checksum  sha256 of the file
    """

    def __init__(self, path: Path):
        """Read the file once. Raises OSError."""
        self._path, self._starts, total = path, array("q", [0]), hashlib.sha256()
        self._open()
        for line in self._file:
            total.update(line)
            self._starts.append(self._starts[-1] + len(line))
        self.checksum = total.hexdigest()

    def __getstate__(self) -> dict:  # for workers in other processes
        return self.__dict__ | {"_file": None, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._open()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        with self._lock:
            self._file.seek(self._starts[number])
            line = self._file.read(self._starts[number + 1] - self._starts[number])
        try:
            return Record.of(parse_json(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BadFile(f"{self._path}, line {number + 1} is damaged ({error!r}): {AGAIN}") from error

    def _open(self) -> None:
        self._file, self._lock = self._path.open("rb"), threading.Lock()


@dataclass(frozen=True)
class Manifest:
    """The contents of a data set.

    source       a description of the source
    faces        a description of how the faces were found
    recogniser   PACK/FILE of the embeddings
    encoders     fingerprints of the encoders, by name
    settings     the settings of the preparation
    large        whether prompts have SDXL's sizes
    empty        key of the empty prompt's record
    entries      the pictures
    empty_at     where the empty prompt's record is
    dit          whether prompts are those of a DiT, which reads each at its own length
    pooled       whether a DiT's prompts have pooled states
    """

    source: str
    faces: str
    recogniser: str
    encoders: dict[str, str]
    settings: dict
    large: bool
    empty: str
    entries: Sequence[Record]
    empty_at: RecordLocation | None = None
    dit: bool = False
    pooled: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of contents and settings, without the records' bytes."""
        hashed = {name: getattr(self, name) for name in ("recogniser", "encoders", "settings", "empty")}
        return digest_with_list((entry.plain() for entry in self.entries), WITHIN, hashed | {"entries": []})

    def write(self, folder: Path) -> None:
        """Write both files atomically. Raises OSError."""
        checksum = _write_lines(folder / PICTURES, self.entries)
        plain = {name: value for name, value in vars(self).items() if name != "entries"}
        plain |= {"pictures": len(self.entries), "pictures_checksum": checksum}
        plain = {"format": FORMAT, "checksum": digest(plain)} | plain
        write_atomically(folder / NAME, json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())


def _write_lines(path: Path, entries: Sequence[Record]) -> str:
    """Write the file atomically; returns its sha256."""
    partial, total = path.with_name(f".{path.name}.{os.getpid()}.part"), hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for entry in entries:
                plain = entry.plain() | {"at": entry.at}
                line = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                total.update(line)
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return total.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises MissingModel (nothing was prepared there), BadFile."""
    path = folder / NAME
    if not path.is_file():
        raise MissingModel(
            f"{folder} holds no data set ({NAME} is missing): prepare one with Prepare FaceCDM Data Set or "
            f"`{command_line('dataset')}`; an interrupted preparation continues where it stopped"
        )
    try:
        plain = parse_json(path.read_text(encoding="utf-8"))
        format = plain.pop("format")
        if format not in (WITHIN, FORMAT):
            raise ValueError("another format")
        written = plain.pop("checksum", None)  # None: written before checksums existed
        if written not in (None, digest(plain)):
            raise ValueError("its checksum does not match")
        return _of_lines(plain, folder) if format == FORMAT else _of_one_file(plain, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(f"{path} is damaged or of another version ({error!r}): {AGAIN}") from error


def _of_lines(plain: dict, folder: Path) -> Manifest:
    if not (folder / PICTURES).is_file():
        raise ValueError(f"{PICTURES} is missing")
    pictures = Pictures(folder / PICTURES)
    if (len(pictures), pictures.checksum) != (plain.pop("pictures"), plain.pop("pictures_checksum")):
        raise ValueError(f"{PICTURES}: its checksum does not match")
    return Manifest(**plain | {"entries": pictures, "empty_at": RecordLocation(*plain["empty_at"])})


def _of_one_file(plain: dict, folder: Path) -> Manifest:
    """A manifest of an earlier version. The records are looked up by their keys."""
    stores = [Store(folder / stage) for stage in STAGES]
    entries = tuple(located((Record.of(entry) for entry in plain["entries"]), stores))
    empty_at = _location(stores[STAGES.index("text")], plain["empty"], "the empty prompt")
    return Manifest(**plain | {"entries": entries, "empty_at": empty_at})


def located(entries: Iterable[Record], stores: Sequence[Store]) -> Iterator[Record]:
    """The entries with the locations of their records. Raises BadFile if one is missing."""
    for entry in entries:
        pairs = zip(stores, entry.keys.all())
        yield replace(entry, at=tuple(_location(store, key, entry.name) if key else None for store, key in pairs))


def _location(store: Store, key: str, name: str) -> RecordLocation:
    """Where the record of `name` is. Raises BadFile."""
    found = store.location(key)
    if found is None:
        raise BadFile(f"{store.folder} lacks a record of {name}: {AGAIN}")
    return found
