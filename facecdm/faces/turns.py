"""Quarter turns of a picture, for faces on their side or upside down."""

import numpy as np

from .detection import FaceDetection


def turned_picture(picture: np.ndarray, turns: int) -> np.ndarray:
    """The picture [H, W, 3] turned counter-clockwise by `turns` quarters, contiguous."""
    return np.ascontiguousarray(np.rot90(picture, turns))


def turned_points(points: np.ndarray, turns: int, height: int, width: int) -> np.ndarray:
    """Move points [N, 2] along when a picture of height × width is turned counter-clockwise by `turns` quarters."""
    for _ in range(turns % 4):
        points = np.stack([points[:, 1], width - 1 - points[:, 0]], 1)
        height, width = width, height
    return points


def turned_face(face: FaceDetection, turns: int, height: int, width: int) -> FaceDetection:
    """Move a face along when its picture of height × width is turned counter-clockwise by `turns` quarters."""
    corners = turned_points(face.box.reshape(2, 2), turns, height, width)
    box = np.concatenate([corners.min(0), corners.max(0)])
    return FaceDetection(box, face.score, turned_points(face.keypoints, turns, height, width))


def turns_to_upright(keypoints: np.ndarray) -> int:
    """Number of counter-clockwise quarter turns, 0 … 3, that bring the eyes of `keypoints` [5, 2] closest to level."""
    across, down = keypoints[1] - keypoints[0]
    return int(np.round(np.arctan2(down, across) / (np.pi / 2))) % 4
