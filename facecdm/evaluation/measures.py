"""Measures of one picture and of several."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

SHARP_SIZE, COARSE = 112, 32


def cosine(a: Tensor, b: Tensor, centre: Tensor | None = None) -> float:
    """Cosine of unit embeddings [D], −1 … 1, after subtracting `centre` (the mean of other people) from both."""
    if centre is not None:
        a, b = a - centre, b - centre
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def copy_paste(picture: Tensor, reference: Tensor, held_out: Tensor) -> float:
    """M_CP = (θ_gt − θ_gr) / θ_tr, in −1…1 (Xu et al. 2025, WithAnyone's MultiID-Bench).

    θ is the angle between two face embeddings: g of the generated picture, r of the reference, t of the held-out photo.
    1: a copy of the reference; 0: equally similar to both; −1: a copy of the held-out photo. As in the benchmark, no
    mean of other people is subtracted, and equal photos (θ_tr < 1e-6) give 0.
    """
    g, r, t = (torch.nn.functional.normalize(x.double(), dim=0) for x in (picture, reference, held_out))

    def angle(a: Tensor, b: Tensor) -> float:
        return math.acos(min(max(float(a @ b), -1.0), 1.0))

    whole = angle(t, r)
    return (angle(g, t) - angle(g, r)) / whole if whole >= 1e-6 else 0.0


def sharpness(picture: np.ndarray, keypoints: np.ndarray) -> float:
    """Variance of the Laplacian of the aligned face's grey values (0 … 255): low for blurred faces."""
    from scipy.ndimage import laplace

    from ..faces.align import aligned_crop

    crop = aligned_crop(picture, keypoints, SHARP_SIZE).astype(np.float32)
    return float(laplace(crop @ np.float32([0.299, 0.587, 0.114])).var())


def yaw(keypoints: np.ndarray) -> float | None:
    """Rotation of the head in degrees, from five key points [5, 2]; sign as in pose.head. None if they coincide."""
    from ..pose.faces import person_of_points
    from ..pose.head import fit_head

    fit = fit_head(person_of_points(keypoints))
    return None if fit is None else fit.angles.yaw


def change(picture: np.ndarray, plain: np.ndarray) -> float:
    """RMS difference (0 … 1) of two pictures of one size, uint8 [H, W, 3]."""
    difference = picture.astype(np.float32) - plain.astype(np.float32)
    return float(np.sqrt((difference**2).mean()) / 255)


def diversity(pictures: Iterable[np.ndarray]) -> float:
    """Mean over all pairs of the RMS difference (0 … 1) at 32 × 32 pixels; 0 for fewer than two pictures."""
    from PIL import Image
    from scipy.spatial.distance import pdist

    small = [Image.fromarray(picture).resize((COARSE, COARSE), Image.BILINEAR) for picture in pictures]
    if len(small) < 2:
        return 0.0
    flat = np.stack([np.asarray(one, np.float32).ravel() / 255 for one in small])
    return float(pdist(flat).mean() / math.sqrt(flat.shape[1]))


def interval(by_person: dict[str, float], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the percentile bootstrap's 95 % interval over people (Efron 1979).

    For a paired comparison, pass the differences. One person has no interval: low and high are NaN.
    """
    values = np.array([by_person[name] for name in sorted(by_person)])
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
