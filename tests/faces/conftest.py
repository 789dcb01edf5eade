"""Fixtures: a real analyzer, pictures, and random faces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from facecdm.faces import Face, Faces
from facecdm.faces.analyzer import FaceAnalyzer, open_pack


@pytest.fixture(scope="session")
def insightface_folder(face_models: Path) -> Path:
    return face_models / "models" / "insightface"


@pytest.fixture(scope="session")
def pack_folder(insightface_folder: Path) -> Path:
    return insightface_folder / "models" / "buffalo_s"


@pytest.fixture(scope="session")
def analyzer(insightface_folder: Path) -> FaceAnalyzer:
    return open_pack([insightface_folder], "buffalo_s", "CPU", landmarks=True)


@pytest.fixture(scope="session")
def faceworld(faceworld_val: Path) -> dict[str, Tensor]:
    """Identity → IMAGE [3, 256, 256, 3]."""
    people = {}
    for identity in ("0005", "0006"):
        views = sorted((faceworld_val / identity).glob("*.webp"))
        people[identity] = torch.stack([as_image(Image.open(view)) for view in views])
    return people


def as_image(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)


@pytest.fixture(scope="session")
def make_faces() -> Callable[..., Faces]:
    """Faces with random embeddings of length about `length`; the same seed gives the same."""

    def make(count: int = 1, seed: int = 0, dim: int = 16, recogniser: str = "pack/r.onnx", size: int = 8) -> Faces:
        rng = torch.Generator().manual_seed(seed)
        faces = [
            Face(
                embedding=torch.randn(dim, generator=rng) * 5,
                keypoints=torch.rand(5, 2, generator=rng) * 100,
                box=torch.tensor([10.0, 20.0, 60.0, 90.0]),
                score=0.75,
                image_size=(120, 100),
                image_index=i,
                crop=torch.randint(0, 256, (size, size, 3), generator=rng).float() / 255,
                landmarks=torch.rand(106, 2, generator=rng) if i % 2 else None,
                name=f"person {seed}.{i}",
            )
            for i in range(count)
        ]
        return Faces(tuple(faces), recogniser)

    return make
