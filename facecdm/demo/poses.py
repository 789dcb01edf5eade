"""Training data of the pose ControlNet: key points of FaceWorld's pictures, detected by InsightFace and cached."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..faces.analyzer import FaceAnalyzer
from ..faces.search import search
from ..pictures import open_picture
from ..pose.draw import draw_openpose
from ..pose.edit import mirrored
from ..pose.faces import person_of_points
from ..pose.layout import FIVE_SIZE
from ..pose.value import Pose
from .data import read_labels

DETECTION_SIZE = 256  # the size of FaceWorld's pictures


@dataclass(frozen=True)
class KeyPoints:
    """Key points of pictures.

    rows    [N], indices into the labels
    points  float32 [N, 5 + 106, 2] in 0 … 1: first SCRFD's points, then those of 2d106det
    """

    rows: np.ndarray
    points: np.ndarray

    def pose(self, entry: int, side: int, mirror: bool = False) -> Pose:
        """Return the pose of an entry in a picture of side × side."""
        points = self.points[entry] * side
        pose = Pose((person_of_points(points[:FIVE_SIZE], points[FIVE_SIZE:]),), (side, side))
        return mirrored(pose) if mirror else pose

    def hint(self, entry: int, side: int, drawn: int, mirror: bool = False) -> np.ndarray:
        """Draw the control picture at `drawn` pixels and resize it as core's nodes do: uint8 [side, side, 3]."""
        picture = draw_openpose(self.pose(entry, drawn, mirror))
        nearest = ((np.arange(side) + 0.5) * drawn / side).astype(int)  # "nearest-exact"
        return picture[nearest][:, nearest]


def load(root: Path, splits: tuple[str, ...], count: int, cache: Path, analyzer=None) -> KeyPoints:
    """Load the poses of `count` pictures spread over the splits; pictures without a face are left out.

    They are cached in the folder `cache`. If nothing is cached, `analyzer()` opens a FaceAnalyzer with landmarks.
    """
    kept = cache / f"{'-'.join(splits)}-poses-{count}.npz"
    if not kept.exists():
        found = find(root, splits, count, analyzer())
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, rows=found.rows, points=found.points)
        partial.replace(kept)
    with np.load(kept) as arrays:
        return KeyPoints(arrays["rows"], arrays["points"])


def find(root: Path, splits: tuple[str, ...], count: int, analyzer: FaceAnalyzer) -> KeyPoints:
    """Detect the key points; takes about 30 ms a picture on one core."""
    from tqdm import tqdm

    labels = read_labels(root, splits)
    wanted = {labels[row]["file"]: row for row in np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int)}
    found = {}
    with tqdm(total=len(wanted), desc="finding key points", unit="picture", mininterval=10) as progress:
        for shard in sorted({labels[row]["shard"] for row in wanted.values()}):
            with tarfile.open(root / shard) as archive:
                for member in archive:
                    if member.name in wanted:
                        picture = open_picture(archive.extractfile(member).read()).convert("RGB")
                        points = _points(analyzer, np.asarray(picture)[..., ::-1].copy())
                        if points is not None:
                            found[wanted[member.name]] = points
                        progress.update()
    rows = np.array(sorted(found), int)
    return KeyPoints(rows, np.stack([found[row] for row in rows]).astype(np.float32))


def _points(analyzer: FaceAnalyzer, bgr: np.ndarray) -> np.ndarray | None:
    faces = search(analyzer, bgr, DETECTION_SIZE, 0.5, thorough=True)
    if not faces:
        return None
    largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    _, landmarks = analyzer.embed(bgr, largest)
    return np.concatenate([largest.keypoints, landmarks]) / bgr.shape[0]
