"""Which other photo of a person is the better reference: one with another pose or expression."""

import numpy as np

from ...faces.align import TEMPLATE, similarity

# ArcFace's upright face with eyes one apart, so that distances are in distances between the eyes.
UPRIGHT = (TEMPLATE - TEMPLATE[0]) / np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])


def shape(keypoints: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """[5, 2] or, where there are landmarks, [106, 2]: the face brought upright, in distances between the eyes.

    What is left after shift, turn and scale is the pose of the head and the expression (and the person, who is the
    same among the photos that are compared).
    """
    points = np.asarray(landmarks if len(landmarks) else keypoints, np.float64)
    upright = similarity(keypoints, UPRIGHT)
    points = points @ upright[:, :2].T + upright[:, 2]
    return (points - points.mean(0)).astype(np.float32)


def difference(a: np.ndarray, others: np.ndarray) -> np.ndarray:
    """RMS distance of one shape [P, 2] from others [N, P, 2], in distances between the eyes."""
    return np.sqrt(((others - a) ** 2).sum(-1).mean(-1))
