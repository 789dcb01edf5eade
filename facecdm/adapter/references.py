"""Several references of one person: as their mean, side by side, or one for each picture of a batch (video)."""

from dataclasses import replace

import torch

from ..errors import FaceCDMError
from ..faces.value import Face, Faces
from .features import Features

MEAN, SIDE_BY_SIDE, PER_PICTURE = "mean", "side by side", "one per picture"
REFERENCES = (MEAN, SIDE_BY_SIDE, PER_PICTURE)
NOTHING = 1e-6  # smallest sum of weights that a mean is divided by


def merged(given: Features, mode: str, weights: tuple[float, ...] = (), unit: bool = False) -> Features:
    """Features by `mode`. MEAN: the mean (`unit`: of length 1). PER_PICTURE: one per weighted frame. Otherwise all."""
    if mode == MEAN and given.count > 1:
        return given.mean(torch.tensor(weights) if len(weights) == given.count else None, unit)
    return given.repeated(max(given.count, len(weights)) if mode == PER_PICTURE else given.count)


def check_weights(weights: tuple[float, ...], counts: list[int], mode: str) -> None:
    """Check that each reference has a weight; `counts` are the numbers of references of each stream.

    A stream with one reference needs no weight, such as one picture beside three faces. Raises FaceCDMError if there
    are too few or too many weights, or if the weights of a mean sum to zero.
    """
    if not weights or not counts:
        return
    if mode == PER_PICTURE:
        counts = [max(count, len(weights)) for count in counts]
    unlike = [count for count in counts if count != len(weights)]
    if len(unlike) == len(counts) or max(unlike, default=1) > 1:
        numbers = f"{len(weights)} number{'s' * (len(weights) != 1)}"
        raise FaceCDMError(
            f"reference_weights has {numbers} for {max(unlike)} reference{'s' * (max(unlike) != 1)}: write one for each"
        )
    if mode == MEAN and abs(sum(weights)) < NOTHING:
        raise FaceCDMError(
            "reference_weights sum to 0, and a mean is divided by their sum: change one of them, or "
            f"choose {SIDE_BY_SIDE!r}"
        )


def one_per_image(faces: Faces) -> Faces:
    """The largest face of each picture of a batch, such as the frames of a video.

    A picture without a face gets the face of the previous picture; pictures before the first face get the first face.
    Faces of one picture or of several batches are returned unchanged, as references in their order.
    """
    if faces.pictures < 2 or not len(faces):
        return faces
    largest: dict[int, Face] = {}
    for face in sorted(faces, key=lambda face: face.area):
        largest[face.image_index] = face
    shown, frames = largest[min(largest)], []
    for number in range(faces.pictures):
        shown = largest.get(number, shown)
        frames.append(shown)
    return replace(faces, faces=tuple(frames))
