"""Pose pictures for a ControlNet."""

import numpy as np

from ...pose.draw import draw_five, draw_openpose
from ...pose.faces import person_of_points
from ...pose.value import Pose
from .manifest import Record


def draw_pose(kind: str, entry: Record, landmarks: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3] RGB of the bucket; `landmarks` [106, 2] or [0, 2] in pixels of the picture as read."""
    height, width = entry.bucket
    points = np.asarray(entry.keypoints, np.float32) * (width, height)
    x0, y0, x1, y1 = entry.part
    marks = (landmarks - (x0, y0)) / (x1 - x0, y1 - y0) * (width, height) if len(landmarks) else None
    pose = Pose((person_of_points(points, marks),), (height, width))
    return draw_five(pose) if kind == "five points" else draw_openpose(pose)
