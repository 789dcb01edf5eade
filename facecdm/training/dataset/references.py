"""Difference in pose and expression between photos of a person. A more different photo is a better reference."""

import numpy as np

from ...faces.align import TEMPLATE, similarity

# ArcFace's aligned face, scaled so that the eyes' distance is 1.
UPRIGHT = (TEMPLATE - TEMPLATE[0]) / np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])


def shape(keypoints: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The aligned landmarks [106, 2], or key points [5, 2] without landmarks, in units of the eyes' distance.

    Translation, rotation and scale are removed. All compared photos show one person, so only head pose and expression
    differ.
    """
    points = np.asarray(landmarks if len(landmarks) else keypoints, np.float64)
    upright = similarity(keypoints, UPRIGHT)
    points = points @ upright[:, :2].T + upright[:, 2]
    return (points - points.mean(0)).astype(np.float32)


def difference(a: np.ndarray, others: np.ndarray) -> np.ndarray:
    """RMS distance [N] of one shape [P, 2] from others [N, P, 2], in units of the eyes' distance."""
    return np.sqrt(((others - a) ** 2).sum(-1).mean(-1))
