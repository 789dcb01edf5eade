"""Aspect buckets: a batch holds pictures of similar shape, cropped as little as possible and not through the face."""

import math
from dataclasses import dataclass

import numpy as np

PORTRAIT = 3.0  # ratio of a portrait's side to the longer side of the face's box
ABOVE = 0.42  # distance of the face's centre from a portrait's top, as a share of the height


@dataclass(frozen=True)
class Frame:
    """The part of a picture that is resized to a bucket.

    part     x0, y0, x1, y1 in pixels of the picture
    bucket   (height, width) in pixels
    """

    part: tuple[int, int, int, int]
    bucket: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels of the bucket per pixel of the picture."""
        return self.bucket[1] / (self.part[2] - self.part[0])

    def relative(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 2] in pixels of the picture → 0…1 of the part; points outside it are below 0 or above 1."""
        x0, y0, x1, y1 = self.part
        return (np.asarray(points, np.float64) - (x0, y0)) / (x1 - x0, y1 - y0)


def bucket_sizes(resolution: int, step: int, aspect: float) -> list[tuple[int, int]]:
    """(height, width), multiples of `step`: for each width the tallest that keeps the area ≤ resolution²."""
    side = resolution // step * step
    sizes = {(side, side)}
    for width in range(step, int(resolution * math.sqrt(aspect)) + 1, step):
        height = min(resolution**2 // width // step * step, int(resolution * math.sqrt(aspect)) // step * step)
        if height and max(height / width, width / height) <= aspect:
            sizes |= {(height, width), (width, height)}
    return sorted(sizes)


def frame(size: tuple[int, int], box: np.ndarray, sizes: list[tuple[int, int]], portrait: bool = False) -> Frame:
    """The frame of a picture of (height, width) with a face at `box` (x0, y0, x1, y1)."""
    window = portrait_window(size, box) if portrait else (0, 0, size[1], size[0])
    width, height = window[2] - window[0], window[3] - window[1]
    bucket = min(sizes, key=lambda s: (abs(math.log(s[1] / s[0] * height / width)), s))
    scale = max(bucket[1] / width, bucket[0] / height)
    cut = (max(1, min(width, round(bucket[1] / scale))), max(1, min(height, round(bucket[0] / scale))))
    x, y = (_start(window[axis], window[axis + 2], cut[axis], box[axis], box[axis + 2]) for axis in (0, 1))
    return Frame((x, y, x + cut[0], y + cut[1]), bucket)


def portrait_window(size: tuple[int, int], box: np.ndarray) -> tuple[int, int, int, int]:
    """A square around the face, cut to the picture: x0, y0, x1, y1."""
    x0, y0, x1, y1 = (float(value) for value in box)
    side = PORTRAIT * max(x1 - x0, y1 - y0)
    out = []
    for middle, length, part in (((x0 + x1) / 2, size[1], 0.5), ((y0 + y1) / 2, size[0], ABOVE)):
        have = max(1, min(round(side), length))
        start = min(max(round(middle - have * part), 0), length - have)
        out.append((start, start + have))
    return out[0][0], out[1][0], out[0][1], out[1][1]


def _start(low: int, high: int, cut: int, face_low: float, face_high: float) -> int:
    """Start of a cut of length `cut`: centred, then moved only as far as needed to contain the face."""
    start = low + (high - low - cut) / 2
    if face_high - face_low <= cut:
        start = min(max(start, face_high - cut), face_low)
    else:
        start = (face_low + face_high - cut) / 2
    return int(min(max(round(start), low), high - cut))
