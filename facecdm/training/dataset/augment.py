"""Variations of a photo, as references for a person with only one photo."""

import random
from dataclasses import dataclass

import numpy as np

SWAP = [1, 0, 2, 4, 3]  # key points of a mirrored face: left and right are swapped


@dataclass(frozen=True, eq=False)
class Variation:
    """One variation of a photo.

    pixels      uint8 [H, W, 3] RGB, as large as the original
    keypoints   [5, 2] in its pixels
    """

    pixels: np.ndarray
    keypoints: np.ndarray


def vary(pixels: np.ndarray, keypoints: np.ndarray, rng: random.Random) -> Variation:
    """Crop, rotate and scale around the face, mirror, recolour and blur. The person stays recognisable."""
    import cv2

    height, width = pixels.shape[:2]
    middle = keypoints.mean(0)
    turn, zoom = rng.uniform(-15, 15), rng.uniform(0.85, 1.5)
    matrix = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), turn, zoom)
    target = (width * rng.uniform(0.4, 0.6), height * rng.uniform(0.35, 0.55))
    matrix[:, 2] += np.array(target) - middle  # crop: the face moves
    paper = [float(value) for value in pixels.reshape(-1, 3).mean(0)]
    out = cv2.warpAffine(
        np.ascontiguousarray(pixels),
        matrix,
        (width, height),
        flags=cv2.INTER_AREA,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=paper,
    )
    points = keypoints @ matrix[:, :2].T + matrix[:, 2]
    if rng.random() < 0.5:
        out, points = out[:, ::-1], np.stack([width - 1 - points[:, 0], points[:, 1]], 1)[SWAP]
    return Variation(_recolour(out, width / 256, rng), points.astype(np.float32))


def _recolour(pixels: np.ndarray, unit: float, rng: random.Random) -> np.ndarray:
    import cv2

    image = pixels.astype(np.float32) / 255
    image = image ** rng.uniform(0.7, 1.4)  # brightness
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * rng.uniform(0.4, 1.4)  # saturation
    image = (image - 0.5) * rng.uniform(0.75, 1.25) + 0.5  # contrast
    image = image * np.array([rng.uniform(0.88, 1.12) for _ in range(3)], np.float32)  # colour of the light
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), max(rng.uniform(0.2, 1.2) * unit, 0.1))
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
