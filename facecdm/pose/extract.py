"""Extraction of poses from a batch with one detector. Pictures without people are reported."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import FaceCDMError
from ..faces.analyzer import FaceAnalyzer
from ..faces.detect import to_bgr
from ..faces.search import search
from .draw import draw_five, draw_openpose, person_box
from .faces import person_of_points
from .head import Angles, fit_head
from .value import Pose, PosePerson

PEOPLE = ("all", "largest")
FIVE_POINTS = "InstantID 5 points"
DRAWINGS = ("OpenPose", FIVE_POINTS)
SKIPPED = ": skipped, "  # in a picture's line of a report

# uint8 BGR [H, W, 3] → the people in it.
Detector = Callable[[np.ndarray], list[PosePerson]]


@dataclass(frozen=True)
class Drawing:
    """The style of a drawing. body, hands and face apply to OpenPose only; `thickness` 1 is the trained width."""

    style: str = DRAWINGS[0]
    body: bool = True
    hands: bool = True
    face: bool = True
    thickness: float = 1.0

    def __post_init__(self) -> None:
        if self.style not in DRAWINGS:
            raise FaceCDMError(f"drawing is {self.style!r}; choose one of {', '.join(DRAWINGS)}.")

    def __call__(self, pose: Pose) -> np.ndarray:
        """uint8 [H, W, 3] RGB."""
        if self.style == FIVE_POINTS:
            return draw_five(pose, self.thickness)
        return draw_openpose(pose, self.body, self.hands, self.face, self.thickness)


@dataclass(frozen=True)
class Extraction:
    """Result for a batch.

    poses   one for each picture
    angles  rotation of the first visible head of each picture; None without one
    report  a line for each picture
    """

    poses: tuple[Pose, ...]
    angles: tuple[Angles | None, ...]
    report: str

    @property
    def problems(self) -> list[str]:
        """The lines of skipped pictures."""
        return [line for line in self.report.splitlines() if SKIPPED in line]

    @property
    def first_angles(self) -> Angles:
        """Angles of the first picture with a visible head; zeros if there is none."""
        return next((angles for angles in self.angles if angles), Angles(0.0, 0.0, 0.0))


def extract(
    detector: Detector, images: Tensor, people: str = "all", progress: Callable[[int, int], None] | None = None
) -> Extraction:
    """Extract the poses of IMAGE [B, H, W, C] 0 … 1, largest person first. Raises FaceCDMError."""
    if people not in PEOPLE:
        raise FaceCDMError(f"people is {people!r}; choose one of {', '.join(PEOPLE)}.")
    if images.ndim != 4 or 0 in images.shape:
        raise FaceCDMError(f"image must be a batch of pictures, not {list(images.shape)}.")
    poses, lines = [], []
    for number, image in enumerate(images):
        bgr = to_bgr(image)
        found = sorted(detector(bgr), key=_area, reverse=True) if bgr is not None else []
        pose = Pose(tuple(found[:1] if people == "largest" else found), image.shape[:2])
        poses.append(pose)
        lines.append(
            f"Picture {number}: " + ("skipped, the picture holds NaN or infinity" if bgr is None else describe(pose))
        )
        if progress:
            progress(number + 1, len(images))
    return Extraction(tuple(poses), tuple(head_angles(pose) for pose in poses), "\n".join(lines))


def head_angles(pose: Pose) -> Angles | None:
    """The head rotation of the first person whose head is visible; None without one."""
    fits = (fit_head(person) for person in pose.people)
    return next((fit.angles for fit in fits if fit), None)


def describe(pose: Pose) -> str:
    """A line for the report."""
    if not pose.people:
        return "skipped, no person was found"
    angles = head_angles(pose)
    turn = (
        f"yaw {angles.yaw:+.0f}°, pitch {angles.pitch:+.0f}°, roll {angles.roll:+.0f}°" if angles else "no head visible"
    )
    count = len(pose.people)
    return f"{count} {'person' if count == 1 else 'people'}, {pose.people[0].visible} points of the largest, {turn}"


def _area(person: PosePerson) -> float:
    box = person_box(person)
    return 0.0 if box is None else float(np.prod(box[2:] - box[:2]))


@dataclass(frozen=True, eq=False)
class FaceDetector:
    """Key points from the face analyzer: five for every face, and 70 if it has loaded landmarks."""

    analyzer: FaceAnalyzer
    min_score: float = 0.5
    size: int = 640

    def __call__(self, bgr: np.ndarray) -> list[PosePerson]:
        people = []
        for face in search(self.analyzer, bgr, self.size, self.min_score, thorough=True):
            landmarks = self.analyzer.embed(bgr, face)[1] if self.analyzer.files.landmarks else None
            points = face.keypoints if landmarks is None else np.concatenate([face.keypoints, landmarks])
            if np.isfinite(points).all():
                people.append(person_of_points(face.keypoints, landmarks))
        return people
