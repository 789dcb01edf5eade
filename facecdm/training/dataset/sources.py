"""Where pictures, captions and identities come from."""

import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from ...errors import BadFile, FaceCDMError, MissingModel

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
META = ("meta.jsonl", "metadata.jsonl")  # the second is the name that Hugging Face's ImageFolder uses
LONGEST = 2048  # larger pictures are reduced when read: no base model sees more of them


class Unreadable(Exception):
    """This one picture cannot be read; the message says why."""


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 [H, W, 3] RGB; `original` (height, width) before a large picture was reduced."""

    pixels: np.ndarray
    original: tuple[int, int]


@dataclass(frozen=True)
class Item:
    """One picture of a source, not read yet. `data` gives the bytes that its content key is made of.

    caption None: none was given; identity None: unknown; pose: yaw, pitch, roll in degrees, where known.
    """

    name: str
    data: Callable[[], bytes]
    decode: Callable[[bytes], Picture]
    caption: str | None = None
    identity: str | None = None
    pose: tuple[float, float, float] | None = None

    def digest(self) -> str:
        """sha256 of the picture's bytes. Raises Unreadable."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def read(self) -> Picture:
        """Raises Unreadable."""
        return self.decode(self._bytes())

    def _bytes(self) -> bytes:
        try:
            return self.data()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or error}") from error


class Source(Protocol):
    """`describe` goes into the manifest and the report; `items` are in an order that does not change."""

    def describe(self) -> str: ...

    def items(self) -> list[Item]: ...


def decode_file(data: bytes) -> Picture:
    """A picture file: turned upright as its EXIF says, transparency on white. Raises Unreadable."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (LONGEST, LONGEST))
        width, height = Image.open(io.BytesIO(data)).size
        if picture.getexif().get(0x0112, 1) >= 5:  # lies on its side
            width, height = height, width
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            paper = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(paper, picture)
        picture = picture.convert("RGB")
        if max(picture.size) > LONGEST:
            picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:
        raise Unreadable("is no whole picture (of no format that Pillow knows)") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise Unreadable(f"is no whole picture ({str(error)[:120] or type(error).__name__})") from error
    return Picture(np.asarray(picture), (height, width))


@dataclass(frozen=True)
class FolderSource:
    """Pictures below a folder, with captions beside them (`photo.txt` for `photo.jpg`) or in `meta.jsonl`.

    A line of meta.jsonl: {"file_name": …, "text" or "caption": …, "identity": …}; it may stand in any folder, and its
    names are relative to it. A picture in a sub-folder is of the person that the first sub-folder is named after,
    unless meta.jsonl says another.
    """

    folder: Path

    def describe(self) -> str:
        return f"folder {self.folder.name}"

    def items(self) -> list[Item]:
        """Sorted by name. Raises MissingModel (no folder), FaceCDMError (no picture in it), BadFile (meta.jsonl)."""
        if not self.folder.is_dir():
            raise MissingModel(f"there is no folder {self.folder}: give one with pictures in it")
        meta = {}
        for path in sorted(path for name in META for path in self.folder.rglob(name)):
            meta |= _read_meta(path, self.folder)
        paths = [
            path
            for path in self.folder.rglob("*")
            if path.suffix.lower() in PICTURES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        ]
        if not paths:
            raise FaceCDMError(f"{self.folder} holds no picture ({', '.join(PICTURES)})")
        names = {path.relative_to(self.folder).as_posix(): path for path in paths}
        return [self._item(name, names[name], meta.get(name, {})) for name in sorted(names)]

    def _item(self, name: str, path: Path, line: dict) -> Item:
        parts = Path(name).parts
        identity = line.get("identity") or (parts[0] if len(parts) > 1 else None)
        caption = line.get("text", line.get("caption"))
        beside = path.with_suffix(".txt")
        if caption is None and beside.is_file():
            caption = beside.read_text(encoding="utf-8-sig", errors="replace")
        caption = " ".join(str(caption).split()) if caption is not None else None
        return Item(name, path.read_bytes, decode_file, caption or None, None if identity is None else str(identity))


def _read_meta(path: Path, root: Path) -> dict[str, dict]:
    lines = {}
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            name = Path(os.path.normpath(path.parent / line["file_name"])).relative_to(os.path.normpath(root))
        except (ValueError, KeyError, TypeError) as error:
            raise BadFile(
                f"{path}, line {number}: {error!r}. Every line is a JSON object with the file_name of a "
                "picture in that folder, and text (or caption)"
            ) from error
        lines[name.as_posix()] = line
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
        """Raises FaceCDMError where the numbers of pictures and captions do not fit."""
        count = len(self.images)
        captions = list(self.captions) * (count if len(self.captions) == 1 else 1) or [""] * count
        if len(captions) != count or (self.identities and len(self.identities) != count):
            raise FaceCDMError(
                f"{count} pictures and {len(captions)} captions: give one line for each picture, or one for all"
            )
        identities = self.identities or [None] * count
        return [
            Item(f"{row:05d}", functools.partial(_pack, image), _unpack, " ".join(caption.split()) or None, person)
            for row, (image, caption, person) in enumerate(zip(self.images, captions, identities))
        ]


def _pack(image: Tensor) -> bytes:
    import torch

    rgb = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:2], 3)
    if not torch.isfinite(rgb).all():
        raise OSError("it holds NaN")
    pixels = (rgb.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
    return f"{pixels.shape[0]}x{pixels.shape[1]} ".encode() + pixels.numpy().tobytes()


def _unpack(data: bytes) -> Picture:
    head, _, body = data.partition(b" ")
    height, width = (int(side) for side in head.split(b"x"))
    return Picture(np.frombuffer(body, np.uint8).reshape(height, width, 3), (height, width))
