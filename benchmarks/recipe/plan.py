"""What the recipe reads and writes, and how long its stages train."""

import argparse
from dataclasses import dataclass

from facecdm.demo import paths

LORA_RANK = 16  # the adapter's LoRA; with 24 the weights would be too large


@dataclass(frozen=True)
class Lengths:
    """How long each stage trains, and how much is measured."""

    pictures: int = 311_040
    keep: int = 25_000
    decoder: int = 1200
    key_points: int = 7000
    pose: int = 1100
    judge_epochs: float = 8.0
    broad: int = 2150
    broad_further: int = 250  # instead of `broad`, if the training begins with an adapter
    identity_further: int = 50  # instead of `identity`, then
    identity: int = 260
    fine: int = 30
    location: int = 1000
    drawn: int = 400
    drawn_fine: int = 150
    batch: int = 64
    captions: int = 200
    people: int = 48
    poses: int = 100
    one_person: tuple[int, ...] = ()  # steps of the stages; (): those of benchmarks/one_person.py
    prompts: int = 24
    steps: int = 20


SMOKE = Lengths(
    pictures=128,
    keep=64,
    decoder=2,
    key_points=24,
    pose=2,
    judge_epochs=1.0,
    broad=2,
    broad_further=2,
    identity_further=2,
    identity=2,
    fine=1,
    location=2,
    drawn=1,
    drawn_fine=1,
    batch=8,
    captions=8,
    people=3,
    poses=4,
    one_person=(2, 1, 1),
    prompts=2,
    steps=4,
)


class Plan:
    """The recipe of given arguments.

    how            the arguments
    run            folder of everything that is made
    lengths        how long each stage trains
    world          FaceWorld, or the part of it that --smoke uses
    weights        folder of the four files that are made
    cache          folder of decoded pictures
    judge          the judge's file
    begun_adapter  copy of the adapter that the training begins with; None: a new adapter
    recogniser     InsightFace's ONNX file
    """

    def __init__(self, arguments: argparse.Namespace):
        self.how, self.run, self.lengths = arguments, arguments.run, SMOKE if arguments.smoke else Lengths()
        self.world = self.run / "faceworld" if arguments.smoke else arguments.faceworld
        self.weights, self.cache = self.run / "weights", self.run / "base" / "cache"
        self.judge = arguments.judge or self.run / "judge" / "judge.pt"
        self.begun_adapter = self.run / "begin" / paths.ADAPTER.name if arguments.begin_adapter else None
        self.recogniser = arguments.models / "insightface/models/buffalo_s/w600k_mbf.onnx"
