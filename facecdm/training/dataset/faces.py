"""Face finders: InsightFace, or a table of faces that were found earlier."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import BadFile, Mismatch
from ...faces.analyzer import FaceAnalyzer
from ...faces.search import search
from .settings import Settings
from .sources import Item
from .store import digest


@dataclass(frozen=True, eq=False)
class DetectedFace:
    """The largest face of a picture, in pixels of the picture as read; arrays are float32.

    embedding   [D], raw
    keypoints   [5, 2]
    box         [4] x0, y0, x1, y1
    landmarks   [106, 2] or [0, 2]
    score       the detector's score, 0…1
    size        (height, width) of the picture as read
    original    (height, width) of the picture in its file
    others      number of further faces
    """

    embedding: np.ndarray
    keypoints: np.ndarray
    box: np.ndarray
    landmarks: np.ndarray
    score: float
    size: tuple[int, int]
    original: tuple[int, int]
    others: int = 0


class Finder(Protocol):
    """Finds and embeds faces.

    recogniser    PACK/FILE of the embeddings
    fingerprint   stored faces with the same fingerprint are reused
    """

    recogniser: str
    fingerprint: str

    def describe(self) -> str: ...

    def find(self, item: Item) -> DetectedFace | str:
        """The largest face of the picture, or the reason why there is none. Raises Unreadable."""

    def embed(self, bgr: np.ndarray, keypoints: np.ndarray) -> np.ndarray | None:
        """The raw embedding of the face at the given key points; None if this finder cannot embed."""


class AnalyzerFinder:
    """SCRFD and ArcFace of a face pack."""

    def __init__(self, analyzer: FaceAnalyzer, settings: Settings):
        self._analyzer, self._settings = analyzer, settings
        self.recogniser = analyzer.recogniser
        files = [analyzer.files.detector, analyzer.files.recogniser, analyzer.files.landmarks]
        self.fingerprint = digest(
            "insightface/1",
            [file_digest(path) if path else "" for path in files],
            settings.min_score,
            settings.detection_size,
        )

    def describe(self) -> str:
        return f"detected and embedded by InsightFace ({self.recogniser})"

    def find(self, item: Item) -> DetectedFace | str:
        picture = item.read()
        bgr = np.ascontiguousarray(picture.pixels[..., ::-1])
        settings = self._settings
        found = search(self._analyzer, bgr, settings.detection_size, settings.min_score, thorough=True)
        if not found:
            return f"no face with a score of at least {settings.min_score:g}"
        face = max(found, key=lambda face: float(np.prod(np.maximum(face.box[2:] - face.box[:2], 0))))
        embedding, landmarks = self._analyzer.embed(bgr, face)
        if not np.isfinite(embedding).all() or not np.linalg.norm(embedding):
            return "its face could not be embedded"
        landmarks = np.zeros((0, 2), np.float32) if landmarks is None else landmarks
        return DetectedFace(
            embedding,
            face.keypoints,
            face.box,
            landmarks,
            face.score,
            picture.pixels.shape[:2],
            picture.original,
            len(found) - 1,
        )

    def embed(self, bgr: np.ndarray, keypoints: np.ndarray) -> np.ndarray | None:
        from ...faces.detection import FaceDetection

        box = np.concatenate([keypoints.min(0), keypoints.max(0)]).astype(np.float32)
        embedding, _ = self._analyzer.embed(bgr, FaceDetection(box, 1.0, keypoints.astype(np.float32)))
        return embedding if np.isfinite(embedding).all() and np.linalg.norm(embedding) else None


class KnownFinder:
    """Faces that were found earlier; nothing is detected or embedded.

    faces        the faces, by name of the picture
    recogniser   PACK/FILE of the embeddings
    origin       where the faces come from, for the manifest
    """

    def __init__(self, faces: dict[str, DetectedFace], recogniser: str, origin: str, fingerprint: str):
        self._faces, self.recogniser, self._origin = faces, recogniser, origin
        self.fingerprint = fingerprint

    def describe(self) -> str:
        return f"from a table, not detected: {self._origin} ({self.recogniser})"

    def find(self, item: Item) -> DetectedFace | str:
        return self._faces.get(item.name, "no face in the table")

    def embed(self, bgr: np.ndarray, keypoints: np.ndarray) -> None:
        return None


def known_from_npz(files: list[tuple[Path, list[str]]], size: tuple[int, int], recogniser: str) -> KnownFinder:
    """Read pairs of an npz file and the names of its rows' pictures. All pictures have the size (height, width).

    An npz file holds, in pixels of the pictures:
    embedding   [N, D], raw
    keypoints   [N, 5, 2]
    box         [N, 4]
    score       [N]; 0: no face
    landmarks   [N, 106, 2]; may be missing

    Raises BadFile, and Mismatch if the numbers of rows and names differ.
    """
    faces: dict[str, DetectedFace] = {}
    for path, names in files:
        try:
            with np.load(path, allow_pickle=False) as file:
                table = {name: file[name].astype(np.float32) for name in file.files}
            marks = table.get("landmarks", np.zeros((len(names), 0, 2), np.float32))
            columns = table["embedding"], table["keypoints"], table["box"], marks
            scores = table["score"]
        except (OSError, ValueError, KeyError) as error:
            raise BadFile(
                f"{path} is no table of faces ({error!r}): it needs embedding, keypoints, box and score"
            ) from error
        if len(scores) != len(names):
            raise Mismatch(f"{path} has {len(scores)} rows for {len(names)} pictures: make it again")
        faces |= {
            name: DetectedFace(*(column[row] for column in columns), float(scores[row]), size, size)
            for row, name in enumerate(names)
            if scores[row] > 0
        }
    origin = ", ".join(path.name for path, _ in files)
    return KnownFinder(
        faces, recogniser, origin, digest("known/1", recogniser, size, [file_digest(path) for path, _ in files])
    )


def file_digest(path: Path) -> str:
    import hashlib

    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
