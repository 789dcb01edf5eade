"""Poses of faces from InsightFace's key points."""

import numpy as np

from .layout import BODY_OF_FIVE, BODY_SIZE, FACE_OF_LANDMARKS, LANDMARKS_SIZE
from .value import BadPose, PosePerson


def person_of_points(five: np.ndarray, landmarks: np.ndarray | None = None) -> PosePerson:
    """Make a PosePerson from the detector's five points [5, 2] and, if known, 2d106det's landmarks [106, 2].

    The body gets nose and eyes. The face's 70 points need the landmarks. Raises BadPose.
    """
    five = _visible(five)
    body = np.zeros((BODY_SIZE, 3), np.float32)
    for point, source in BODY_OF_FIVE.items():
        body[point] = five[source]
    if landmarks is None:
        return PosePerson(body=body, five=five)
    if np.shape(landmarks) != (LANDMARKS_SIZE, 2):
        raise BadPose(f"Landmarks must be [{LANDMARKS_SIZE}, 2], not {list(np.shape(landmarks))}.")
    return PosePerson(body=body, face=_visible(landmarks)[list(FACE_OF_LANDMARKS)], five=five)


def _visible(points: np.ndarray) -> np.ndarray:
    return np.hstack([np.asarray(points, np.float32), np.ones((len(points), 1), np.float32)])
