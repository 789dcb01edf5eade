"""The value that travels: who stands where in a picture, and the same as OpenPose JSON (POSE_KEYPOINT)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import FaceCDMError
from .layout import BODY_SIZE, FACE_MOUTH, FACE_NOSE_TIP, FACE_SIZE, FIVE_SIZE, HAND_SIZE, LEFT_EYE, RIGHT_EYE

# Name in Person → (key in the JSON, number of points). The five points are an addition of ours that others ignore.
PARTS = {
    "body": ("pose_keypoints_2d", BODY_SIZE),
    "face": ("face_keypoints_2d", FACE_SIZE),
    "left_hand": ("hand_left_keypoints_2d", HAND_SIZE),
    "right_hand": ("hand_right_keypoints_2d", HAND_SIZE),
    "five": ("face_5_keypoints_2d", FIVE_SIZE),
}
VISIBLE = 0.3  # a point of a lower confidence is taken as not seen, as core's drawing node does


class BadPose(FaceCDMError, ValueError):
    """A POSE_KEYPOINT or a table of key points has a wrong shape, or holds NaN."""


@dataclass(frozen=True, eq=False)
class PosePerson:
    """One person. Each part is float32 [N, 3]: x, y in pixels and a confidence 0 … 1 (0: not seen); see layout.py.

    body [18, 3], face [70, 3], left_hand and right_hand [21, 3] in OpenPose's order; five [5, 3] in InsightFace's.
    A part that is not known is all zero. Raises BadPose.
    """

    body: np.ndarray = field(default_factory=lambda: np.zeros((BODY_SIZE, 3), np.float32))
    face: np.ndarray = field(default_factory=lambda: np.zeros((FACE_SIZE, 3), np.float32))
    left_hand: np.ndarray = field(default_factory=lambda: np.zeros((HAND_SIZE, 3), np.float32))
    right_hand: np.ndarray = field(default_factory=lambda: np.zeros((HAND_SIZE, 3), np.float32))
    five: np.ndarray = field(default_factory=lambda: np.zeros((FIVE_SIZE, 3), np.float32))

    def __post_init__(self) -> None:
        for name, (_, size) in PARTS.items():
            points = np.asarray(getattr(self, name), np.float32)
            if points.shape != (size, 3) or not np.isfinite(points).all():
                raise BadPose(f"{name} must be [{size}, 3] finite numbers, not {list(points.shape)} or with NaN.")
            object.__setattr__(self, name, points)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def visible(self) -> int:
        """How many points are seen in all."""
        return int(sum((points[:, 2] >= VISIBLE).sum() for points in self.parts.values()))

    def with_five(self) -> "PosePerson":
        """The same with the five points, told from the face's 70 where they are not known."""
        if (self.five[:, 2] > 0).any() or not (self.face[:, 2] > 0).any():
            return self
        eyes = [mean_point(self.face[list(eye)]) for eye in (RIGHT_EYE, LEFT_EYE)]
        rest = [self.face[place] for place in (FACE_NOSE_TIP, *FACE_MOUTH)]
        return replace(self, five=np.stack(eyes + rest))


def mean_point(points: np.ndarray) -> np.ndarray:
    """[N, 3] → [3]: the middle of the seen ones, and the least of their confidences; zeros where none is."""
    visible = points[points[:, 2] > 0]
    return np.append(visible[:, :2].mean(0), visible[:, 2].min()) if len(visible) else np.zeros(3)


@dataclass(frozen=True, eq=False)
class Pose:
    """Everyone in one picture of `size` (height, width) pixels."""

    people: tuple[PosePerson, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", tuple(self.people))
        height, width = (int(side) for side in self.size)
        if height < 1 or width < 1:
            raise BadPose(f"A pose's picture must be 1 × 1 pixels at least, not {width} × {height}.")
        object.__setattr__(self, "size", (height, width))

    def to_openpose(self) -> dict[str, Any]:
        """The dictionary that controlnet_aux and ComfyUI's core pass: pixels, every part present.

        Confidences are written as 1 or 0: controlnet_aux takes anything below 1 as not seen.
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
        """The inverse; also of files whose numbers are parts of the canvas (0 … 1), or that lack parts. Raises BadPose.

        OpenPose's 25 body points (BODY_25) are understood: its first 18 but the hips' middle.
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
                f"{error!r}. Connect a POSE_KEYPOINT of Extract Pose, DWPose or OpenPose."
            ) from error
        for tabled in tables:
            largest = max(float(np.abs(points[:, :2]).max()) for points in tabled.values())
            if 0 < largest <= 2:  # no picture is two pixels wide
                tabled.update({name: points * (size[1], size[0], 1) for name, points in tabled.items()})
        return cls(tuple(PosePerson(**tabled) for tabled in tables), size)


# Where OpenPose's BODY_25 keeps the 18 of COCO: number 8 is the middle of the hips, toes and heels come last.
BODY_OF_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)


def _table(flat: list[float] | None, count: int) -> np.ndarray:
    """x, y, c, x, y, c … → [count, 3]; zeros where there is none."""
    if flat is None or not len(flat):
        return np.zeros((count, 3), np.float32)
    points = np.asarray(flat, np.float32).reshape(-1, 3)
    if count == BODY_SIZE and len(points) == 25:
        points = points[list(BODY_OF_25)]
    if count == FACE_SIZE and len(points) == 68:  # without pupils
        points = np.concatenate([points, np.zeros((2, 3), np.float32)])
    if len(points) != count:
        raise ValueError(f"{len(points)} points where {count} belong")
    points = points.copy()
    points[points[:, 2] <= 0] = 0  # an unseen point has no place
    points[:, 2] = points[:, 2].clip(0, 1)
    return points


def poses_to_openpose(poses: list[Pose]) -> list[dict[str, Any]]:
    """POSE_KEYPOINT of a batch: a dictionary per picture."""
    return [pose.to_openpose() for pose in poses]


def poses_from_openpose(frames: Any) -> list[Pose]:
    """POSE_KEYPOINT → poses; a single dictionary is taken for a batch of one. Raises BadPose."""
    frames = [frames] if isinstance(frames, dict) else frames
    if not isinstance(frames, (list, tuple)) or not frames:
        raise BadPose("A POSE_KEYPOINT is a list with a dictionary per picture; this one is empty or something else.")
    return [Pose.from_openpose(frame) for frame in frames]
