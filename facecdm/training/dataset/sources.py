"""Sources of pictures, captions and identities."""

import functools
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from ...errors import BadFile, FaceCDMError, MissingModel
from ...pictures import SUFFIXES, open_picture, rgb, uint8_rgb, upright_rgb
from .texts import printable, problem_of, read_caption

UNREAD = (".heic", ".heif", ".gif", ".jxl")  # rejected with UNREAD_FORMAT
UNREAD_FORMAT = "its format is not read: save it as JPEG or PNG"
META = ("meta.jsonl", "metadata.jsonl")  # Hugging Face's ImageFolder uses the second name
LISTED = 20  # names in a note
LONGEST = 2048  # longest side; larger pictures are reduced when read, since no base model is trained on more pixels


class Unreadable(Exception):
    """A picture that cannot be read; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    pixels     uint8 [H, W, 3] RGB
    original   (height, width) before a large picture was reduced
    """

    pixels: np.ndarray
    original: tuple[int, int]


@dataclass(frozen=True)
class Item:
    """One picture of a source, not read yet.

    name       unique within the source
    data       returns its bytes, from which the content key is made
    decode     decodes the bytes to a Picture
    caption    None: none was given
    identity   the person's name; None: unknown
    pose       yaw, pitch, roll in degrees; None: unknown
    problem    reason to reject it without reading it; "": none
    """

    name: str
    data: Callable[[], bytes]
    decode: Callable[[bytes], Picture]
    caption: str | None = None
    identity: str | None = None
    pose: tuple[float, float, float] | None = None
    problem: str = ""

    def digest(self) -> str:
        """sha256 of the picture's bytes. Raises Unreadable."""
        if self.problem:
            raise Unreadable(self.problem)
        return hashlib.sha256(self._bytes()).hexdigest()

    def read(self) -> Picture:
        """Decode the picture. Raises Unreadable."""
        return self.decode(self._bytes())

    def _bytes(self) -> bytes:
        try:
            return self.data()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or error}") from error


class Source(Protocol):
    def describe(self) -> str:
        """A description for the manifest and the report."""

    def items(self) -> Sequence[Item]:
        """The items, in the same order in every run. An item may be made each time that it is asked for.

        The sequence may have `notes`: lines for the report.
        """


def decode_file(data: bytes) -> Picture:
    """Decode a picture file, turned upright by its EXIF orientation, on white if transparent. Raises Unreadable."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = open_picture(data)
        width, height = picture.size
        picture.draft("RGB", (LONGEST, LONGEST))  # a large JPEG is decoded at a fraction of its size
        reduced, sideways = picture.size != (width, height), picture.getexif().get(0x0112, 1) >= 5
        picture = upright_rgb(picture)
        if not reduced:  # Pillow already gives a TIFF's upright size
            width, height = picture.size
        elif sideways:
            width, height = height, width
        if max(picture.size) > LONGEST:
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:
        raise Unreadable("is no whole picture (of no format that is read)") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise Unreadable(f"is no whole picture ({str(error)[:120] or type(error).__name__})") from error
    return Picture(np.asarray(picture), (height, width))


class MadeItems(Sequence[Item]):
    """`count` items that are made when they are asked for, so that they take no memory. `notes` are for the report."""

    def __init__(self, count: int, make: Callable[[int], Item], notes: Sequence[str] = ()):
        self._numbers, self._make, self.notes = range(count), make, notes

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index):
        numbers = self._numbers[index]
        return [self._make(number) for number in numbers] if isinstance(index, slice) else self._make(numbers)


@dataclass(frozen=True)
class FolderSource:
    """Pictures below a folder, with captions beside them (`photo.txt` for `photo.jpg`) or in `meta.jsonl`.

    A line of meta.jsonl: {"file_name": …, "text" or "caption": …, "identity": …}. The file may be in any folder; its
    file names are relative to that folder, with / or \\. A picture's first sub-folder names the person, unless
    meta.jsonl does.
    """

    folder: Path

    def describe(self) -> str:
        return f"folder {printable(self.folder.name)}"

    def items(self) -> Sequence[Item]:
        """The items by name. Raises MissingModel (no folder), FaceCDMError (no picture in it), BadFile (meta.jsonl)."""
        if not self.folder.is_dir():
            raise MissingModel(f"there is no folder {self.folder}: give one with pictures in it")
        names, texts = self._names()
        meta, notes, known = {}, [], set(map(_comparable, names))
        for path in sorted(path for name in META for path in self.folder.rglob(name)):
            lines = _read_meta(path, self.folder)
            lost = sorted(lines.keys() - known)
            if lost:
                shown = ", ".join(map(printable, lost[:LISTED])) + (" …" if len(lost) > LISTED else "")
                where = printable(path.relative_to(self.folder).as_posix())
                notes.append(f"{where}: no picture for {len(lost):,} of its lines: {shown}")
            meta |= lines
        if not names:
            raise FaceCDMError(f"{self.folder} holds no picture ({', '.join(SUFFIXES)})")
        return MadeItems(len(names), lambda number: self._item(names[number], meta, texts), notes)

    def _names(self) -> tuple[list[str], dict[str, str]]:
        """Names of pictures, sorted; and caption files that `with_suffix(".txt")` may miss, by `_comparable` stem."""
        pictures, texts = [], {}
        for path in self.folder.rglob("*"):
            suffix = path.suffix.lower()
            if suffix not in (*SUFFIXES, *UNREAD, ".txt") or not path.is_file():
                continue
            name = path.relative_to(self.folder).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                continue
            if suffix != ".txt":
                pictures.append(name)
            elif not (name.isascii() and name.endswith(".txt")):
                texts[_comparable(name[:-4])] = name
        return sorted(pictures), texts

    def _item(self, name: str, meta: dict[str, dict], texts: dict[str, str]) -> Item:
        path, parts, line = self.folder / name, Path(name).parts, meta.get(_comparable(name), {})
        identity = line.get("identity")
        if identity in (None, "") or identity is False:  # 0 is a name
            identity = parts[0] if len(parts) > 1 else None
        caption, problem = line.get("text", line.get("caption")), ""
        beside, other = path.with_suffix(".txt"), texts.get(_comparable(name.rpartition(".")[0]))
        if caption is None and other is not None and not beside.is_file():
            beside = self.folder / other
        if caption is None and beside.is_file():
            caption, problem = read_caption(beside)
        caption = " ".join(str(caption).split()) if caption is not None else None
        identity = None if identity is None else str(identity)
        if path.suffix.lower() in UNREAD:
            problem = UNREAD_FORMAT
        problem = problem or problem_of(name, identity, caption)
        return Item(printable(name), path.read_bytes, decode_file, caption or None, identity, problem=problem)


def _comparable(name: str) -> str:
    """The name as it is compared: macOS may write é as two characters, and Windows writes backslashes."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _read_meta(path: Path, root: Path) -> dict[str, dict]:
    """The lines by `_comparable` name, relative to `root`. Raises BadFile."""
    lines = {}
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} cannot be read ({error}): save it as UTF-8 text") from error
    for number, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            own = _comparable(line["file_name"])
            name = Path(os.path.normpath(path.parent / own)).relative_to(os.path.normpath(root))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadFile(
                f"{path}, line {number}: {str(error)[:200]}. Every line is a JSON object with the file_name of a "
                "picture in that folder, and text (or caption)"
            ) from error
        lines[_comparable(name.as_posix())] = line
    return lines


@dataclass(frozen=True, eq=False)
class BatchSource:
    """An IMAGE batch [B, H, W, C] in 0…1, with a caption for each picture, or one for all."""

    images: Tensor
    captions: Sequence[str]
    identities: Sequence[str] | None = None

    def describe(self) -> str:
        return f"batch of {len(self.images)} pictures"

    def items(self) -> list[Item]:
        """The items of the batch. Raises FaceCDMError if the numbers of pictures and captions do not match."""
        count = len(self.images)
        captions = list(self.captions) * (count if len(self.captions) == 1 else 1) or [""] * count
        if len(captions) != count or (self.identities and len(self.identities) != count):
            raise FaceCDMError(
                f"{count} pictures and {len(captions)} captions: give one line for each picture, or one for all"
            )
        identities = self.identities or [None] * count
        captions = [" ".join(caption.split()) for caption in captions]
        return [
            Item(
                f"{row:05d}",
                functools.partial(_pack, image),
                _unpack,
                caption or None,
                person,
                problem=problem_of("", person, caption),
            )
            for row, (image, caption, person) in enumerate(zip(self.images, captions, identities))
        ]


def _pack(image: Tensor) -> bytes:
    import torch

    if image.ndim != 3 or not image.numel():
        raise OSError("it has no pixels")
    if not torch.isfinite(rgb(image)).all():
        raise OSError("it holds NaN")
    pixels = uint8_rgb(image)
    return f"{pixels.shape[0]}x{pixels.shape[1]} ".encode() + pixels.tobytes()


def _unpack(data: bytes) -> Picture:
    head, _, body = data.partition(b" ")
    height, width = (int(side) for side in head.split(b"x"))
    return Picture(np.frombuffer(body, np.uint8).reshape(height, width, 3), (height, width))
