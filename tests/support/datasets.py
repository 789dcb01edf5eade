"""Stubs for encoders and face finder that count their calls."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facecdm.training.dataset.encoders import Fingerprints
from facecdm.training.dataset.faces import DetectedFace
from facecdm.training.dataset.settings import Settings
from facecdm.training.rows import Prompt

SETTINGS = Settings(64, 8, aspect=1.0, min_picture=0.1)


@dataclass
class StubEncoders:
    """Latents are 8 × 8 means, repeated `width` times; prompts follow from hashes, vision states from means."""

    resolution: int = 64
    step: int = 8
    large: bool = False
    dit: bool = False
    pooled: bool = False
    width: int = 1
    fingerprints: Fingerprints = Fingerprints("a vae", "a text encoder", "a vision tower")
    asked: Counter = field(default_factory=Counter)

    def latents(self, pixels):
        self.asked["latents"] += len(pixels)
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).repeat(1, self.width, 1, 1)

    def text(self, captions):
        self.asked["text"] += len(captions)
        return [prompt_of(caption, self.large) for caption in captions]

    def vision(self, pictures):
        self.asked["vision"] += len(pictures)
        return torch.stack([torch.from_numpy(picture.mean((0, 1))).float().repeat(5, 4) for picture in pictures])


def prompt_of(caption: str, large: bool = False) -> Prompt:
    """Two tokens, four where the caption is long."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(caption.encode()).hexdigest()[:12], 16))
    states = torch.randn(1, 4 if len(caption) > 40 else 2, 6, generator=generator)
    return Prompt(states, torch.randn(1, 3, generator=generator) if large else None)


@dataclass
class StubFinder:
    """One face in the middle half of every picture, embedded as its mean colour; none in black pictures.

    The mouth's height follows the red of the middle pixel, so that "expressions" differ.
    """

    recogniser: str = "stub/mean.onnx"
    fingerprint: str = "a finder"
    asked: Counter = field(default_factory=Counter)

    def describe(self):
        return "stub"

    def find(self, item):
        picture = item.read()
        self.asked["find"] += 1
        height, width = picture.pixels.shape[:2]
        if not picture.pixels.any():
            return "no face with a score of at least 0.5"
        unit = np.float32([[0.35, 0.4], [0.65, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]])
        unit[3:, 1] += picture.pixels[height // 2, width // 2, 0] / 2550
        box = np.float32([0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height])
        others = int((picture.pixels == picture.pixels[0, 0]).all() and picture.pixels[0, 0, 2] == 77)
        return DetectedFace(
            self.embed(picture.pixels[..., ::-1], unit),
            unit * np.float32([width, height]),
            box,
            np.zeros((0, 2), np.float32),
            0.9,
            (height, width),
            picture.original,
            others,
        )

    def embed(self, bgr, keypoints):
        self.asked["embed"] += 1
        red, green, blue = bgr[..., ::-1].mean((0, 1)) / 255 - 0.5
        return np.float32([red, green, blue, 0.1])


def colourful(seed: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """uint8 [H, W, 3] of blocks of colours."""
    height, width = size
    rng = np.random.default_rng(seed)
    blocks = rng.integers(20, 235, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST))


def save(path: Path, pixels: np.ndarray, caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def files_of(folder: Path) -> dict[str, object]:
    """Every shard's tensors and metadata, and the manifest's bytes, by name."""
    from safetensors import safe_open

    contents: dict[str, object] = {"manifest.json": (folder / "manifest.json").read_bytes()}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).numpy() for name in file.keys()}
            rows = {name: (value.dtype.str, value.tobytes()) for name, value in tensors.items()}
            contents[path.relative_to(folder).as_posix()] = file.metadata(), rows
    return contents
