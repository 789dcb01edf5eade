"""Search a batch for the picture of a face by comparing crops, since picture sizes alone do not identify it."""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ..pictures import uint8_rgb
from .align import aligned_crop
from .value import Face, Faces

SIDE = 32
MARGINS = tuple(step / 20 for step in range(41))  # crop_margin's values, tried in turn: a crop does not record its own
MAX_DIFFERENCE = 0.06  # mean absolute difference, 0 … 1: above that of neighbouring margins, below that of other photos


def source_pictures(faces: Faces, pictures: Tensor | None) -> list[int] | None:
    """Index of each face's picture in the batch [B, H, W, C]; None if one face is not in the batch."""
    if pictures is None:
        return None
    found = [_source(face, pictures) for face in faces]
    return None if None in found else found


def _source(face: Face, pictures: Tensor) -> int | None:
    if tuple(face.image_size) != tuple(pictures.shape[1:3]):
        return None
    first = face.image_index
    order = [first, *(number for number in range(len(pictures)) if number != first)]
    return next((number for number in order if number < len(pictures) and contains_face(pictures[number], face)), None)


def contains_face(picture: Tensor, face: Face) -> bool:
    """Whether the picture [H, W, C] in 0 … 1 matches the crop of the face at its key points."""
    # The fourth channel marks what is inside the picture.
    uint8 = np.pad(uint8_rgb(picture), ((0, 0), (0, 0), (0, 1)), constant_values=255)
    crop = face.crop.movedim(-1, 0)[None].float()
    crop = F.interpolate(crop, (SIDE, SIDE), mode="area")[0].movedim(0, -1).numpy()
    return any(_difference(uint8, face, crop, margin) < MAX_DIFFERENCE for margin in MARGINS)


def _difference(picture: np.ndarray, face: Face, crop: np.ndarray, margin: float) -> float:
    try:
        aligned = aligned_crop(picture, face.keypoints.numpy(), 2 * SIDE, margin).astype(np.float32) / 255
    except ValueError:  # coinciding key points
        return 1.0
    aligned = aligned.reshape(SIDE, 2, SIDE, 2, 4).mean((1, 3))
    inside = aligned[..., 3] > 0.99  # a wide crop is mostly black beyond the picture, whatever the picture
    return float(np.abs(aligned[..., :3] - crop)[inside].mean()) if inside.any() else 1.0
