"""Every decision that a training step leaves to chance, from (seed, stage, step) alone.

So a resumed run, another device, and two processes that share a batch all draw the same.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .stages import Stage

STEPS = 1000


def generator(*key: object) -> torch.Generator:
    """A generator seeded by `key`, on the CPU."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True, eq=False)
class RandomDraws:
    """For the rows of one batch: noise steps `t`, noise `epsilon`, what is left out, and who refers to whom.

    All bool tensors [B] are True where the row *has* the thing. `choice` [B] in 0…1 picks a reference, `own` [B]
    says that the picture is its own reference, `face_region` that only the face counts. `window` is True in all rows
    or in none: only a window around the face is seen, whose middle `wander` [B, 2] in 0…1 moves.
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
    wander: Tensor

    def part(self, rows: slice) -> "RandomDraws":
        return RandomDraws(**{name: value[rows] for name, value in vars(self).items()})


def draw(stage: Stage, step: int, micro: int, shape: tuple[int, ...]) -> RandomDraws:
    """The draws of batch `micro` of `step` for latents of `shape` [B, C, h, w]."""
    random_from = generator(stage.seed, stage.name, step, micro)
    rows = shape[0]

    def uniform() -> Tensor:
        return torch.rand(rows, generator=random_from)

    # Levels spread evenly over the batch vary the loss less from step to step than independent ones.
    spread = (torch.randperm(rows, generator=random_from) + torch.rand(1, generator=random_from)) / rows
    everything = uniform() >= stage.drop_all
    return RandomDraws(
        _noise_step(stage, spread),
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
    )


def _noise_step(stage: Stage, u: Tensor) -> Tensor:
    """Uniform u → step t, `noise_share` of them in noise_low … noise_high and the others in the rest."""
    low, high = stage.noise_low, stage.noise_high
    if stage.noise_share == 0 or high - low == STEPS:
        return (u * STEPS).long().clamp(max=STEPS - 1)
    inside = low + u / stage.noise_share * (high - low)
    rest = (u - stage.noise_share) / max(1 - stage.noise_share, 1e-6) * (STEPS - (high - low))
    rest = torch.where(rest < low, rest, rest + (high - low))
    return torch.where(u < stage.noise_share, inside, rest).long().clamp(0, STEPS - 1)


def batches(buckets: Sequence[Sequence[int]], size: int, seed: int, start: int) -> Iterator[list[int]]:
    """Batches of `size` indices of one bucket each, from the `start`-th on, for ever: epochs in ever new orders.

    A bucket's last batch is filled up from its beginning, so that no picture is left out.
    """
    per_epoch = sum(-(-len(bucket) // size) for bucket in buckets)
    number = start
    while True:
        epoch, place = divmod(number, per_epoch)
        yield _epoch(tuple(map(tuple, buckets)), size, seed, epoch)[place]
        number += 1


@lru_cache(maxsize=2)
def _epoch(buckets: tuple, size: int, seed: int, epoch: int) -> list[list[int]]:
    rng = random.Random(f"{seed}/{epoch}")
    result = []
    for bucket in buckets:
        order = list(bucket)
        rng.shuffle(order)
        order += order[: -len(order) % size] if len(order) >= size else (order * size)[: size - len(order)]
        result += [order[at : at + size] for at in range(0, len(order), size)]
    rng.shuffle(result)
    return result
