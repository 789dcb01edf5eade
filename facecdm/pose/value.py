"""Poses as values, and as OpenPose JSON (POSE_KEYPOINT)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import FaceCDMError
from .layout import BODY_SIZE, FACE_MOUTH, FACE_NOSE_TIP, FACE_SIZE, FIVE_SIZE, HAND_SIZE, LEFT_EYE, RIGHT_EYE

# Field of PosePerson → (key in the JSON, number of points). The five points are our extension; other packs ignore them.
PARTS = {
    "body": ("pose_keypoints_2d", BODY_SIZE),
    "face": ("face_keypoints_2d", FACE_SIZE),
    "left_hand": ("hand_left_keypoints_2d", HAND_SIZE),
    "right_hand": ("hand_right_keypoints_2d", HAND_SIZE),
    "five": ("face_5_keypoints_2d", FIVE_SIZE),
}
VISIBLE = 0.3  # lowest confidence of a visible point, as in core's drawing node
LARGEST_SIDE, FARTHEST = 16384, 1e6  # limits in pixels of a picture's side and a point's coordinates


class BadPose(FaceCDMError, ValueError):
    """A POSE_KEYPOINT or a table of key points has the wrong shape, NaN, or numbers that are too large."""


@dataclass(frozen=True, eq=False)
class PosePerson:
    """One person. Each part is float32 [N, 3]: x, y in pixels, and a confidence 0 … 1 (0: not visible).

    body                   [18, 3] in OpenPose's order (layout.py)
    face                   [70, 3] in OpenPose's order
    left_hand, right_hand  [21, 3] in OpenPose's order
    five                   [5, 3] in InsightFace's order

    An unknown part is all zero. Raises BadPose.
    """

    body: np.ndarray = field(default_factory=lambda: np.zeros((BODY_SIZE, 3), np.float32))
    face: np.ndarray = field(default_factory=lambda: np.zeros((FACE_SIZE, 3), np.float32))
    left_hand: np.ndarray = field(default_factory=lambda: np.zeros((HAND_SIZE, 3), np.float32))
    right_hand: np.ndarray = field(default_factory=lambda: np.zeros((HAND_SIZE, 3), np.float32))
    five: np.ndarray = field(default_factory=lambda: np.zeros((FIVE_SIZE, 3), np.float32))

    def __post_init__(self) -> None:
        for name, (_, size) in PARTS.items():
            points = np.asarray(getattr(self, name), np.float32)
            if points.shape != (size, 3) or not (np.abs(points) <= FARTHEST).all():
                raise BadPose(
                    f"{name} must be [{size}, 3] numbers up to {FARTHEST:.0f}, not {list(points.shape)}, NaN or larger."
                )
            object.__setattr__(self, name, points)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def visible(self) -> int:
        """Number of visible points."""
        return int(sum((points[:, 2] >= VISIBLE).sum() for points in self.parts.values()))

    def with_five(self) -> "PosePerson":
        """Fill in missing five points, computed from the face's 70."""
        if (self.five[:, 2] > 0).any() or not (self.face[:, 2] > 0).any():
            return self
        eyes = [mean_point(self.face[list(eye)]) for eye in (RIGHT_EYE, LEFT_EYE)]
        rest = [self.face[point] for point in (FACE_NOSE_TIP, *FACE_MOUTH)]
        return replace(self, five=np.stack(eyes + rest))


def mean_point(points: np.ndarray) -> np.ndarray:
    """[N, 3] → [3]: the mean of the visible points and their lowest confidence; zeros where none is visible."""
    visible = points[points[:, 2] > 0]
    return np.append(visible[:, :2].mean(0), visible[:, 2].min()) if len(visible) else np.zeros(3)


@dataclass(frozen=True, eq=False)
class Pose:
    """The people of one picture of `size` (height, width) pixels. Raises BadPose."""

    people: tuple[PosePerson, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", tuple(self.people))
        height, width = (int(side) for side in self.size)
        if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
            raise BadPose(f"A pose's picture must have 1 … {LARGEST_SIDE} pixels a side, not {width} × {height}.")
        object.__setattr__(self, "size", (height, width))

    def to_openpose(self) -> dict[str, Any]:
        """The dictionary of controlnet_aux and ComfyUI's core: pixels, every part present.

        Confidences are written as 1 or 0, because controlnet_aux treats anything below 1 as invisible.
        """
        people = []
        for person in self.people:
            flat = {}
            for name, (key, _) in PARTS.items():
                points = np.array(getattr(person, name), np.float64)
                points[:, 2] = points[:, 2] >= VISIBLE
                flat[key] = (points * points[:, 2:]).round(3).ravel().tolist()
            people.append(flat)
        return {"people": people, "canvas_height": self.size[0], "canvas_width": self.size[1]}

    @classmethod
    def from_openpose(cls, frame: dict[str, Any]) -> "Pose":
        """Read `to_openpose`'s dictionary. Accepts shares of the canvas (0 … 1) in place of pixels, missing parts, and
        BODY_25, of which it keeps the 18 points. Raises BadPose.
        """
        try:
            size = int(frame["canvas_height"]), int(frame["canvas_width"])
            tables = [
                {name: _table(person.get(key), count) for name, (key, count) in PARTS.items()}
                for person in frame.get("people") or []
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BadPose(
                "This is no OpenPose JSON (canvas_height, canvas_width, people with pose_keypoints_2d …): "
                f"{repr(error)[:200]}. Connect a POSE_KEYPOINT of Extract Pose, DWPose or OpenPose."
            ) from error
        for tabled in tables:
            largest = max(float(np.abs(points[:, :2]).max()) for points in tabled.values())
            if 0 < largest <= 2:  # no picture is two pixels wide
                tabled.update({name: points * (size[1], size[0], 1) for name, points in tabled.items()})
        return cls(tuple(PosePerson(**tabled) for tabled in tables), size)


# Indices of COCO's 18 points in BODY_25: number 8 is the mid-hip, toes and heels come last.
BODY_OF_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)


def _table(flat: list[float] | None, count: int) -> np.ndarray:
    """Convert x, y, c, x, y, c … to [count, 3]; zeros if `flat` is missing."""
    if flat is None or not len(flat):
        return np.zeros((count, 3), np.float32)
    points = np.asarray(flat, np.float32).reshape(-1, 3)
    if count == BODY_SIZE and len(points) == 25:
        points = points[list(BODY_OF_25)]
    if count == FACE_SIZE and len(points) == 68:  # without pupils
        points = np.concatenate([points, np.zeros((2, 3), np.float32)])
    if len(points) != count:
        raise ValueError(f"{len(points)} points instead of {count}")
    points = points.copy()
    points[points[:, 2] <= 0] = 0  # an invisible point has no position
    points[:, 2] = points[:, 2].clip(0, 1)
    return points


def poses_to_openpose(poses: list[Pose]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT of a batch: a dictionary for each picture."""
    return [pose.to_openpose() for pose in poses]


def poses_from_openpose(frames: Any) -> list[Pose]:
    """Read poses from a POSE_KEYPOINT. A single dictionary is a batch of one. Raises BadPose."""
    frames = [frames] if isinstance(frames, dict) else frames
    if not isinstance(frames, (list, tuple)) or not frames:
        raise BadPose("A POSE_KEYPOINT is a list with a dictionary per picture; this one is empty or something else.")
    return [Pose.from_openpose(frame) for frame in frames]
