"""Edits of a pose: turn heads, mirror, scale, move, fit into another picture. Confidences do not change."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import FaceCDMError
from .head import Angles, turn_head
from .layout import BODY_MIRROR, FACE_MIRROR, FIVE_MIRROR
from .value import Pose, PosePerson

FITS = ("stretch", "fit inside", "cover")


@dataclass(frozen=True)
class Edit:
    """An edit, applied in the order of its fields. Raises FaceCDMError.

    yaw, pitch, roll  degrees that heads turn by; signs as in head.py
    mirror            swap left and right
    scale             factor about the centre of the picture; 1 keeps the size
    right, down       shift in picture widths and heights
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    mirror: bool = False
    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0

    def __post_init__(self) -> None:
        numbers = (self.yaw, self.pitch, self.roll, self.scale, self.right, self.down)
        if not np.isfinite(numbers).all() or self.scale <= 0:
            raise FaceCDMError("Edit Pose needs finite numbers, and a scale above 0.")


def edited(pose: Pose, edit: Edit) -> Pose:
    """The pose after the edit, in a picture of the same size."""
    if edit.yaw or edit.pitch or edit.roll:
        pose = turned(pose, Angles(edit.yaw, edit.pitch, edit.roll))
    if edit.mirror:
        pose = mirrored(pose)
    height, width = pose.size
    middle = np.array([width / 2, height / 2])
    shift = np.array([edit.right * width, edit.down * height])
    return _moved(pose, lambda points: (points - middle) * edit.scale + middle + shift)


def turned(pose: Pose, by: Angles) -> Pose:
    """The pose with every head turned by these angles, in addition to its present rotation."""
    return Pose(tuple(turn_head(person, by) for person in pose.people), pose.size)


def mirrored(pose: Pose) -> Pose:
    """Mirror the pose: swap left and right in positions and names."""
    width = pose.size[1]

    def flip(points: np.ndarray, order: tuple[int, ...] | None = None) -> np.ndarray:
        points = points if order is None else points[list(order)]
        x = np.where(points[:, 2] > 0, width - points[:, 0], points[:, 0])  # invisible points keep 0
        return np.stack([x, points[:, 1], points[:, 2]], 1)

    return Pose(tuple(
        PosePerson(body=flip(person.body, BODY_MIRROR), face=flip(person.face, FACE_MIRROR),
               left_hand=flip(person.right_hand), right_hand=flip(person.left_hand),
               five=flip(person.five, FIVE_MIRROR))
        for person in pose.people), pose.size)  # fmt: skip


def retargeted(pose: Pose, size: tuple[int, int], fit: str = "fit inside") -> Pose:
    """Fit the pose into a picture of another size (height, width).

    stretch     scale width and height separately
    fit inside  keep the proportions, centred, with the whole old picture visible
    cover       keep the proportions, centred, without a border
    """
    if fit not in FITS:
        raise FaceCDMError(f"fit is {fit!r}; choose one of {', '.join(FITS)}.")
    old, new = np.array(pose.size[::-1], float), np.array(size[::-1], float)
    factor = new / old
    if fit != "stretch":
        factor = np.full(2, factor.min() if fit == "fit inside" else factor.max())
    moved = _moved(pose, lambda points: (points - old / 2) * factor + new / 2)
    return replace(moved, size=size)


def _moved(pose: Pose, transform: Callable[[np.ndarray], np.ndarray]) -> Pose:
    def move(points: np.ndarray) -> np.ndarray:
        moved = np.hstack([transform(points[:, :2].astype(float)), points[:, 2:]])
        return np.where(points[:, 2:] > 0, moved, points)

    people = (PosePerson(**{name: move(points) for name, points in person.parts.items()}) for person in pose.people)
    return Pose(tuple(people), pose.size)
