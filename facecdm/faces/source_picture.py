"""In which picture of a batch a face was found, told by its looks: sizes and places may be those of any photo."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .align import aligned_crop
from .value import Face, Faces

SIDE = 32
MARGINS = tuple(step / 20 for step in range(21))  # of a crop, which does not say its own
MAX_DIFFERENCE = 0.06  # mean difference, in 0…1: the next margin's crop is nearer, another photo's is not


def source_pictures(faces: Faces, pictures: Tensor | None) -> list[int] | None:
    """For each face the number of its picture in the batch [B, H, W, 3]; None where one of them is not there."""
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
    """Whether the picture [H, W, 3] in 0…1 has, at the face's key points, what the face's crop shows."""
    uint8 = (picture[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    crop = face.crop.movedim(-1, 0)[None].float()
    crop = F.interpolate(crop, (SIDE, SIDE), mode="area")[0].movedim(0, -1).numpy()
    return any(_difference(uint8, face, crop, margin) < MAX_DIFFERENCE for margin in MARGINS)


def _difference(picture: np.ndarray, face: Face, crop: np.ndarray, margin: float) -> float:
    aligned = aligned_crop(picture, face.keypoints.numpy(), 2 * SIDE, margin).astype(np.float32) / 255
    aligned = aligned.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    return float(np.abs(aligned - crop).mean())
