"""Face search with several views of a picture: for small and large faces, close-ups, and faces on their side."""

from dataclasses import dataclass

import numpy as np

from .analyzer import FaceAnalyzer
from .detection import FaceDetection
from .turns import turned_face, turned_picture

CONFIDENT = 0.7  # a detection in a turned picture needs this score
UPRIGHT = 0.78  # this score ends the search; a turned face, found with false key points, scores up to 0.76
BETTER = 0.05  # a detection in the turned picture must score this much more than the upright one
LARGEST = 100_000_000  # pixels of a picture with its border; larger ones are scaled down first
OVERLAP = 0.4  # two detections that overlap more are one face


@dataclass(frozen=True)
class SearchView:
    """One run of the detector.

    size     side in pixels that the picture is scaled to
    border   width of a border around the picture, as a share of its longer side
    """

    size: int
    border: float = 0.0


def further_views(size: int, longer_side: int) -> list[list[SearchView]]:
    """Groups of views to try after the plain one, cheapest first: smaller, with a border (close-ups), larger."""
    smaller = [SearchView(part) for part in (size // 2, size // 4) if part >= 64]
    bordered = [SearchView(size // 2, 0.5), SearchView(size // 2, 1.0)]
    larger = [SearchView(size * 2)] if longer_side > size * 1.5 else []
    return [group for group in (smaller, bordered, larger) if group]


def search(analyzer: FaceAnalyzer, bgr: np.ndarray, size: int, min_score: float, thorough: bool) -> list[FaceDetection]:
    """Find the faces of a uint8 BGR picture: each once, best first, in the picture's own coordinates.

    The first view is the plain picture at `size`. With `thorough`, further groups of views follow until a face scores
    UPRIGHT. If none does, the picture is also searched after one, two and three quarter turns.
    """
    size = max(32, size // 32 * 32)  # the detector's coarsest stride
    found = _detect_in_view(analyzer, bgr, SearchView(size), min_score)
    for group in further_views(size, max(bgr.shape[:2])) if thorough else ():
        if _best(found) >= UPRIGHT:
            break
        for view in group:
            found += _detect_in_view(analyzer, bgr, view, min_score)
    found = dedupe(found)
    if thorough and _best(found) < UPRIGHT:
        found = _with_turned(found, dedupe(_detect_turned(analyzer, bgr, size, min_score)))
    return found


def _best(found: list[FaceDetection]) -> float:
    return max((face.score for face in found), default=0.0)


def _with_turned(upright: list[FaceDetection], turned: list[FaceDetection]) -> list[FaceDetection]:
    """Merge both lists, best first. A turned detection replaces an upright one if its score is clearly better."""

    def rivals(face: FaceDetection, others: list[FaceDetection]) -> list[FaceDetection]:
        return [other for other in others if overlap(face.box, other.box) > OVERLAP]

    if upright:
        turned = [face for face in turned if face.score >= max(CONFIDENT, _best(rivals(face, upright)) + BETTER)]
    return dedupe([face for face in upright if not rivals(face, turned)] + turned)


def _detect_turned(analyzer: FaceAnalyzer, bgr: np.ndarray, size: int, min_score: float) -> list[FaceDetection]:
    """Detect faces after one, two and three quarter turns."""
    found = []
    for turns in (1, 3, 2):
        turned = turned_picture(bgr, turns)
        for view in (SearchView(size), SearchView(size // 2), SearchView(size // 2, 0.5)):
            faces = _detect_in_view(analyzer, turned, view, min_score)
            found += [turned_face(face, -turns, *turned.shape[:2]) for face in faces]
    return found


def _detect_in_view(analyzer: FaceAnalyzer, bgr: np.ndarray, view: SearchView, min_score: float) -> list[FaceDetection]:
    size = max(32, view.size // 32 * 32)
    border = round(max(bgr.shape[:2]) * view.border)
    if not border:
        return analyzer.detect(bgr, size, min_score)
    import cv2

    height, width = bgr.shape[:2]
    factor = max(((height + 2 * border) * (width + 2 * border) / LARGEST) ** 0.5, 1.0)
    inner = bgr
    if factor > 1:
        inner = cv2.resize(
            bgr, (max(int(width / factor), 1), max(int(height / factor), 1)), interpolation=cv2.INTER_AREA
        )
        border = int(border / factor)
    scale = np.float32([width / inner.shape[1], height / inner.shape[0]])
    colour = [float(value) for value in inner.reshape(-1, 3).mean(0)]
    padded = cv2.copyMakeBorder(inner, border, border, border, border, cv2.BORDER_CONSTANT, value=colour)
    shift = np.float32([border, border])
    moved = (
        FaceDetection((face.box - np.tile(shift, 2)) * np.tile(scale, 2), face.score, (face.keypoints - shift) * scale)
        for face in analyzer.detect(padded, size, min_score)
    )
    return [face for face in moved if _inside(face, bgr)]


def _inside(face: FaceDetection, bgr: np.ndarray) -> bool:
    """Whether at least three key points are in the picture; the border can cause false detections."""
    height, width = bgr.shape[:2]
    x, y = face.keypoints.T
    return int(((x >= 0) & (x < width) & (y >= 0) & (y < height)).sum()) >= 3


def dedupe(found: list[FaceDetection]) -> list[FaceDetection]:
    """Keep the detection with the highest score of each face, best first."""
    kept: list[FaceDetection] = []
    for face in sorted(found, key=lambda face: -face.score):
        if all(overlap(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(np.maximum(a[2:] - a[:2], 0)) + np.prod(np.maximum(b[2:] - b[:2], 0))) - common
    return common / union if union > 0 else 0.0
