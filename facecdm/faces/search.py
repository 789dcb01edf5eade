"""Looking for faces in several ways: small and big faces, and close-ups that fill the picture."""

from dataclasses import dataclass

import numpy as np

from .analyzer import DetectedFace, FaceAnalyzer

CONFIDENT = 0.7  # a first look this sure ends the search
OVERLAP = 0.4  # two finds that overlap more are one face


@dataclass(frozen=True)
class SearchView:
    """One way to look: the detector's size, and a border around the picture as part of its longer side."""

    size: int
    border: float = 0.0


def further_views(size: int, longer_side: int) -> list[list[SearchView]]:
    """What to try after the plain look, cheapest group first: smaller; a border (close-ups); larger."""
    smaller = [SearchView(part) for part in (size // 2, size // 4) if part >= 64]
    bordered = [SearchView(size // 2, 0.5), SearchView(size // 2, 1.0)]
    larger = [SearchView(size * 2)] if longer_side > size * 1.5 else []
    return [group for group in (smaller, bordered, larger) if group]


def search(analyzer: FaceAnalyzer, bgr: np.ndarray, size: int, min_score: float, thorough: bool) -> list[DetectedFace]:
    """Faces of a uint8 BGR picture, each once, best first, in the picture's own coordinates.

    The first look is the plain one at `size`; further groups follow only until a face is sure, and all
    finds are judged together by score.
    """
    size = max(32, size // 32 * 32)  # the detector's coarsest stride
    found = _detect_in_view(analyzer, bgr, SearchView(size), min_score)
    for group in further_views(size, max(bgr.shape[:2])) if thorough else ():
        if any(face.score >= CONFIDENT for face in found):
            break
        for view in group:
            found += _detect_in_view(analyzer, bgr, view, min_score)
    return dedupe(found)


def _detect_in_view(analyzer: FaceAnalyzer, bgr: np.ndarray, view: SearchView, min_score: float) -> list[DetectedFace]:
    size = max(32, view.size // 32 * 32)
    border = round(max(bgr.shape[:2]) * view.border)
    if not border:
        return analyzer.detect(bgr, size, min_score)
    import cv2

    colour = [float(value) for value in bgr.reshape(-1, 3).mean(0)]
    padded = cv2.copyMakeBorder(bgr, border, border, border, border, cv2.BORDER_CONSTANT, value=colour)
    shift = np.float32([border, border])
    moved = (
        DetectedFace(face.box - np.tile(shift, 2), face.score, face.keypoints - shift)
        for face in analyzer.detect(padded, size, min_score)
    )
    return [face for face in moved if _inside(face, bgr)]


def _inside(face: DetectedFace, bgr: np.ndarray) -> bool:
    """Whether most key points are in the picture: a border can show the detector faces that are not there."""
    height, width = bgr.shape[:2]
    x, y = face.keypoints.T
    return int(((x >= 0) & (x < width) & (y >= 0) & (y < height)).sum()) >= 3


def dedupe(found: list[DetectedFace]) -> list[DetectedFace]:
    """Each face once, the best-scored find of it, best first."""
    kept: list[DetectedFace] = []
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
