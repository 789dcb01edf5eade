"""The random numbers of a training step, derived only from (seed, stage, step).

So they are the same in a resumed run, on another device, and in processes that share a batch.
"""

import hashlib
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .stages import Stage

STEPS = 1000  # timesteps of every denoiser, so many α_t and σ_t


def generator(*key: object) -> torch.Generator:
    """A generator seeded by `key`, on the CPU."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True, eq=False)
class RandomNumbers:
    """The random numbers of one batch.

    t             [B] int64 timesteps
    epsilon       [B, C, h, w] noise
    text_on       [B] bool: the row has its prompt; `face_on`, `image_on`, `pose_on` likewise
    own           [B] bool: the picture is its own reference
    choice        [B] in 0…1, chooses a reference
    face_region   [B] bool: the diffusion loss counts only the face region
    window        [B] bool, equal in all rows: the step is trained on a window around the face
    window_shift  [B, 2] in 0…1, position of the window
    find_on       [B] bool, equal in all rows: the adapter finds the face locations by itself
    """

    t: Tensor
    epsilon: Tensor
    text_on: Tensor
    face_on: Tensor
    image_on: Tensor
    pose_on: Tensor
    own: Tensor
    choice: Tensor
    face_region: Tensor
    window: Tensor
    window_shift: Tensor
    find_on: Tensor

    def part(self, rows: slice) -> "RandomNumbers":
        return RandomNumbers(**{name: value[rows] for name, value in vars(self).items()})


def make_random_numbers(stage: Stage, step: int, micro: int, shape: tuple[int, ...]) -> RandomNumbers:
    """The random numbers of batch `micro` of `step`, for latents of `shape` [B, C, h, w]."""
    random_from = generator(stage.seed, stage.name, step, micro)
    rows = shape[0]

    def uniform() -> Tensor:
        return torch.rand(rows, generator=random_from)

    # With evenly spaced levels in a batch, the loss varies less from step to step than with independent levels.
    levels = (torch.randperm(rows, generator=random_from) + torch.rand(1, generator=random_from)) / rows
    everything = uniform() >= stage.drop_all
    return RandomNumbers(
        _timesteps(stage, levels),
        torch.randn(shape, generator=random_from),
        (uniform() >= stage.drop_text) & everything,
        (uniform() >= stage.drop_face) & everything,
        (uniform() >= stage.drop_image) & everything,
        (uniform() >= stage.drop_pose)[:1].expand(rows),
        uniform() < stage.own_photo,
        uniform(),
        uniform() < stage.face_region,
        (uniform() < stage.face_window)[:1].expand(rows),
        torch.rand(rows, 2, generator=random_from),
        (uniform() < stage.find_location)[:1].expand(rows),
    )


def _timesteps(stage: Stage, u: Tensor) -> Tensor:
    """Uniform u [B] in 0…1 → timesteps: `noise_share` of them in noise_low … noise_high, the others outside."""
    low, high = stage.noise_low, stage.noise_high
    if stage.noise_share == 0 or high - low == STEPS:
        return (u * STEPS).long().clamp(max=STEPS - 1)
    inside = low + u / stage.noise_share * (high - low)
    rest = (u - stage.noise_share) / max(1 - stage.noise_share, 1e-6) * (STEPS - (high - low))
    rest = torch.where(rest < low, rest, rest + (high - low))
    return torch.where(u < stage.noise_share, inside, rest).long().clamp(0, STEPS - 1)


def batches(buckets: Sequence[Sequence[int]], size: int, seed: int, start: int) -> Iterator[list[int]]:
    """Yield batches without end, from batch `start`: `size` indices of one bucket each. Every epoch has a new order.

    A bucket's last batch is filled up with indices from the bucket's beginning, so no picture is left out. The order of
    an epoch takes 4 bytes a picture and 36 a batch.
    """
    per_epoch = sum(-(-len(bucket) // size) for bucket in buckets)
    epoch, position = divmod(start, per_epoch)
    while True:
        yield from _epoch(buckets, size, seed, epoch, position)
        epoch, position = epoch + 1, 0


def _epoch(buckets: Sequence[Sequence[int]], size: int, seed: int, epoch: int, start: int) -> Iterator[list[int]]:
    rng = random.Random(f"{seed}/{epoch}")
    indices = array("i")
    for bucket in buckets:
        order = array("i", bucket)
        rng.shuffle(order)
        order += order[: -len(order) % size] if len(order) >= size else (order * size)[: size - len(order)]
        indices += order
    numbers = list(range(len(indices) // size))
    rng.shuffle(numbers)
    for number in numbers[start:]:
        yield indices[number * size : (number + 1) * size].tolist()
