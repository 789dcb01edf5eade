"""The list of what a data set holds, as one JSON file beside the records."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ...errors import BadFile, MissingModel
from .store import digest

FORMAT = "facecdm.dataset/1"
NAME = "manifest.json"


@dataclass(frozen=True)
class Keys:
    """The records of one picture, by stage; "" where the data set has no such stage."""

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

    key          sha256 of the picture's bytes
    identity     the person's number, `person` their name
    bucket       (height, width) in pixels
    part         x0, y0, x1, y1 of the picture (as read) that the bucket shows; `size` (height, width) as read
    original     (height, width) of the file
    box          x0, y0, x1, y1 of the face in 0…1 of the bucket's picture; keypoints: five x, y likewise
    score        how sure the detector was
    pose         yaw, pitch, roll in degrees, where the source knows them
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

    @property
    def face_size(self) -> float:
        """Width of the face in pixels of the bucket's picture."""
        return (self.box[2] - self.box[0]) * self.bucket[1]


@dataclass(frozen=True)
class Manifest:
    """`empty` is the key of the empty text; `large`: prompts carry SDXL's sizes; `settings` as chosen."""

    source: str
    faces: str
    recogniser: str
    encoders: dict[str, str]
    settings: dict
    large: bool
    empty: str
    entries: tuple[Record, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of contents and settings: equal where a training would see the same numbers."""
        plain = asdict(self)
        seen = ("recogniser", "encoders", "settings", "empty", "entries")
        return digest(FORMAT, {name: plain[name] for name in seen})

    def write(self, folder: Path) -> None:
        """All at once or not at all."""
        partial = folder / f".{NAME}.{os.getpid()}.part"
        text = json.dumps({"format": FORMAT} | asdict(self), ensure_ascii=False, separators=(",", ":"))
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / NAME)


def read_manifest(folder: Path) -> Manifest:
    """Raises MissingModel (nothing was prepared there), BadFile."""
    path = folder / NAME
    if not path.is_file():
        raise MissingModel(
            f"{folder} holds no data set ({NAME} is missing): prepare one with Prepare Data Set or "
            "python -m facecdm dataset; an interrupted preparation goes on where it stopped"
        )
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain.pop("format") != FORMAT:
            raise ValueError("another format")
        plain["entries"] = tuple(_entry(entry) for entry in plain["entries"])
        return Manifest(**plain)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFile(
            f"{path} is damaged or of another version ({error!r}): prepare the data set again (only what is "
            "missing is made)"
        ) from error


def _entry(plain: dict) -> Record:
    lists = ("bucket", "part", "size", "original", "box")
    return Record(
        **plain
        | {name: tuple(plain[name]) for name in lists}
        | {
            "keypoints": tuple((x, y) for x, y in plain["keypoints"]),
            "keys": Keys(**plain["keys"]),
            "pose": tuple(plain["pose"]) if plain["pose"] else None,
        }
    )
