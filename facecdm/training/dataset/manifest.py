"""The manifest: a JSON file beside the records that lists the pictures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ...documents import parse_json
from ...errors import BadFile, MissingModel
from ...files import write_atomically
from .store import digest

FORMAT = "facecdm.dataset/1"
NAME = "manifest.json"


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
    """The contents of a data set.

    source       a description of the source
    faces        a description of how the faces were found
    recogniser   PACK/FILE of the embeddings
    encoders     fingerprints of the encoders, by name
    settings     the settings of the preparation
    large        whether prompts have SDXL's sizes
    empty        key of the empty prompt's record
    entries      the pictures
    """

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
        """Hash of contents and settings, without the records' bytes."""
        plain = asdict(self)
        hashed = ("recogniser", "encoders", "settings", "empty", "entries")
        return digest(FORMAT, {name: plain[name] for name in hashed})

    def write(self, folder: Path) -> None:
        """Write the file atomically. Raises OSError."""
        plain = asdict(self)
        plain = {"format": FORMAT, "checksum": digest(plain)} | plain
        write_atomically(folder / NAME, json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode())


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises MissingModel (nothing was prepared there), BadFile."""
    path = folder / NAME
    if not path.is_file():
        raise MissingModel(
            f"{folder} holds no data set ({NAME} is missing): prepare one with Prepare FaceCDM Data Set or "
            "python -m facecdm dataset; an interrupted preparation continues where it stopped"
        )
    try:
        plain = parse_json(path.read_text(encoding="utf-8"))
        if plain.pop("format") != FORMAT:
            raise ValueError("another format")
        written = plain.pop("checksum", None)  # None: written before checksums existed
        if written not in (None, digest(plain)):
            raise ValueError("its checksum does not match")
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
