"""The detector's result."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FaceDetection:
    """A face found in a picture.

    box        [4] float32: x0, y0, x1, y1 in pixels
    score      confidence of the detector, 0 … 1
    keypoints  [5, 2] float32: pixels, in the order of `Face.keypoints`
    """

    box: np.ndarray
    score: float
    keypoints: np.ndarray
