"""Prompt adherence of the demo model: colours by nearest neighbours, faces by InsightFace."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..faces.analyzer import FaceAnalyzer
from ..faces.detect import Options, detect_faces
from .data import Portraits

NEIGHBOURS = 7


@dataclass(frozen=True)
class ColourNamer:
    """k-nearest-neighbour naming of a colour: `features` [N, F] of known pictures, `names` their labels."""

    features: Tensor
    names: tuple[str, ...]

    def __call__(self, features: Tensor) -> list[str]:
        """Name each of [B, F] by the commonest label of its nearest neighbours; the nearest decides a tie."""
        nearest = torch.cdist(features, self.features).topk(min(NEIGHBOURS, len(self.names)), largest=False)
        found = [[self.names[row] for row in rows] for rows in nearest.indices.tolist()]
        return [max(names, key=lambda name: (names.count(name), -names.index(name))) for names in found]


def background_features(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] → [B, 6]: the median colours, 0…1, of the two upper corners."""
    side = pixels.shape[1] // 10
    return _medians([pixels[:, :side, :side], pixels[:, :side, -side:]])


def shirt_features(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] → [B, 15]: the median colours of five patches along the lowest rows."""
    size = pixels.shape[1]
    side, lefts = size // 10, np.linspace(0.12, 0.78, 5) * size
    return _medians([pixels[:, -side:, int(left) : int(left) + side] for left in lefts])


def _medians(patches: list[Tensor]) -> Tensor:
    return torch.cat([patch.flatten(1, 2).float().median(1).values for patch in patches], 1) / 255


def background_namer(portraits: Portraits) -> ColourNamer:
    return ColourNamer(
        _of_rows(background_features, portraits, range(len(portraits))),
        tuple(label["background_colour"] for label in portraits.labels),
    )


def shirt_namer(portraits: Portraits) -> ColourNamer:
    """Fit on plain shirts only, since a striped one shows two colours."""
    rows = plain_shirts(portraits.labels)
    return ColourNamer(
        _of_rows(shirt_features, portraits, rows),
        tuple(portraits.labels[row]["shirt_colour"] for row in rows),
    )


def _of_rows(features, portraits: Portraits, rows: Sequence[int]) -> Tensor:
    """Compute features in chunks, since all pictures at 256 pixels take 4 GB."""
    parts = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    return torch.cat([features(torch.from_numpy(np.array(portraits.pixels[list(part)]))) for part in parts])


def plain_shirts(labels: list[dict]) -> list[int]:
    return [row for row, label in enumerate(labels) if label["shirt_pattern"] == "plain"]


@dataclass(frozen=True)
class PromptAdherence:
    """Shares 0…1 of pictures with a detected face, and with the colours of the caption."""

    pictures: int
    face: float
    background: float
    shirt: float


def prompt_adherence(
    pixels: Tensor, labels: list[dict], background: ColourNamer, shirt: ColourNamer, analyzer: FaceAnalyzer
) -> PromptAdherence:
    """Measure pictures, uint8 [B, S, S, 3], against the labels that they were generated from."""
    plain = plain_shirts(labels)
    return PromptAdherence(
        len(labels),
        face=float(np.mean([face is not None for face in embeddings(pixels, analyzer)])),
        background=_share(background(background_features(pixels)), [label["background_colour"] for label in labels]),
        shirt=_share(shirt(shirt_features(pixels[plain])), [labels[row]["shirt_colour"] for row in plain]),
    )


def _share(found: list[str], wanted: list[str]) -> float:
    return sum(a == b for a, b in zip(found, wanted, strict=True)) / max(len(wanted), 1)


def embeddings(pixels: Tensor, analyzer: FaceAnalyzer) -> list[Tensor | None]:
    """Unit ArcFace embedding of the largest face of each picture; None if SCRFD finds no face."""
    out = []
    for picture in pixels:
        faces = detect_faces(analyzer, picture[None].float() / 255, Options(crop_size=16)).faces
        out.append(faces.normed[0] if len(faces) else None)
    return out


def identity_kept(originals: list[Tensor | None], again: list[Tensor | None], centre: Tensor) -> list[float]:
    """Cosine of each pair after subtracting `centre`, the mean embedding of other people; −1 without a face.

    Renders share a bias: two different people have a cosine of .29, and of .03 after centring (FaceWorld's README).
    """
    pairs = [(a, b) for a, b in zip(originals, again, strict=True) if a is not None]
    return [-1.0 if b is None else torch.cosine_similarity(a - centre, b - centre, 0).item() for a, b in pairs]


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Share of generated pictures that lie among real ones, and of real ones among generated ones (0 … 1).

    real [N, F], generated [M, F]: features. A point lies among a set if its distance to one of the members is at
    most that member's distance to its own `neighbours`-th nearest (Kynkäänniemi et al. 2019, algorithm 1). The values
    depend on N and M, so compare only results with equal N and M.
    """
    across = torch.cdist(generated, real)
    inside_real = across <= _radii(real, neighbours)[None]
    inside_generated = across.T <= _radii(generated, neighbours)[None]
    return inside_real.any(1).float().mean().item(), inside_generated.any(1).float().mean().item()


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each point to its `neighbours`-th nearest neighbour."""
    return torch.cdist(points, points).kthvalue(min(neighbours + 1, len(points)), 1).values
