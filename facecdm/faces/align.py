"""Alignment: the similarity transform between a picture and the recogniser's upright face."""

import numpy as np

# Five key points of an upright face in a picture of 112 × 112, from ArcFace's training
# (deepinsight/insightface, utils/face_align.py: arcface_dst).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# Centre and half axes of the whole face, forehead to chin, in the same frame.
FACE_CENTRE = np.array([56.0, 62.0])
FACE_AXES = np.array([43.0, 58.0])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[2, 3] matrix: the rotation, scale and shift from source [N, 2] to target [N, 2] with the least squared error.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.
    Raises ValueError where all source points coincide.
    """
    source, target = np.asarray(source, float), np.asarray(target, float)
    middle_s, middle_t = source.mean(0), target.mean(0)
    s, t = source - middle_s, target - middle_t
    variance = (s**2).sum() / len(s)
    if variance < 1e-12:
        raise ValueError("all key points coincide")
    u, d, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / variance
    matrix = scale * rotation
    return np.hstack([matrix, (middle_t - matrix @ middle_s)[:, None]])


def insightface_template(size: int) -> np.ndarray:
    """Key points [5, 2] in the square of insightface's `norm_crop`; `size` is a multiple of 112 or 128."""
    scale = size / (112 if size % 112 == 0 else 128)
    return TEMPLATE * scale + [0 if size % 112 == 0 else 8 * scale, 0]


def to_crop(keypoints: np.ndarray, size: int, margin: float = 0.0) -> np.ndarray:
    """[2, 3] matrix from the picture to a crop of size × size. A margin of 0.5 adds half a face on each side."""
    scale = size / 112 / (1 + 2 * margin)
    shift = (size - 112 * scale) / 2
    return similarity(keypoints, TEMPLATE * scale + shift)


def aligned_crop(picture: np.ndarray, keypoints: np.ndarray, size: int, margin: float = 0.0) -> np.ndarray:
    """Cut the upright face, uint8 [size, size, 3], out of a uint8 picture [H, W, 3]; black beyond the picture."""
    return warped(picture, to_crop(keypoints, size, margin), size)


def warped(picture: np.ndarray, matrix: np.ndarray, size: int, outside: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """Transform a uint8 picture [H, W, 3] by `matrix` [2, 3] into uint8 [size, size, 3]."""
    import cv2

    shrink = int(1 / max(np.hypot(*matrix[:, 0]), 1e-6))
    if shrink >= 2:  # a warp reads only 2 × 2 pixels; averaging first keeps a large face from aliasing
        height, width = max(picture.shape[0] // shrink, 1), max(picture.shape[1] // shrink, 1)
        factors = np.array([picture.shape[1] / width, picture.shape[0] / height])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        # pixel centres: x_big + 0.5 = (x_small + 0.5) · factor
        matrix = np.hstack([matrix[:, :2] * factors, (matrix[:, :2] @ ((factors - 1) / 2) + matrix[:, 2])[:, None]])
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=outside)


def ellipse_mask(keypoints: np.ndarray, height: int, width: int, grow: float, feather: float) -> np.ndarray:
    """Elliptical mask, float32 [height, width]: 1 in the face, 0 outside, rotated with the head.

    grow     size; 1 is the face from forehead to chin
    feather  width of the soft edge, in half axes
    """
    matrix = to_crop(keypoints, 112)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] - FACE_CENTRE[0]) / (FACE_AXES[0] * grow)
    v = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] - FACE_CENTRE[1]) / (FACE_AXES[1] * grow)
    # 1 inside radius 1 − feather / 2, 0 outside 1 + feather / 2, smooth between
    edge = max(feather, 1e-3)
    t = np.clip((1 + edge / 2 - np.sqrt(u * u + v * v)) / edge, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)
