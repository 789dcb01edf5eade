"""Combining faces: a weighted mean, a blend of two people, or a list."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import FaceCDMError
from .value import BadFace, Face, Faces, require_same_recogniser

MODES = ("weighted mean", "concatenate", "blend two people")


@dataclass(frozen=True)
class Weighted:
    """A group of faces, such as photos of one person, and its weight."""

    faces: Faces
    weight: float = 1.0


def combine(parts: list[Weighted], mode: str = "weighted mean", blend: float = 0.5) -> Faces:
    """Combine groups of faces. Raises Mismatch (different recognisers), NoFace, FaceCDMError.

    weighted mean     one face: Σ weight · mean direction of a group, scaled to length 1; the raw embedding has
                      the weighted mean length
    concatenate       all faces of the groups with a weight above 0
    blend two people  one face on the arc between two groups: 0 is the first, 1 the second

    A combined face takes its picture, key points and box from the most similar face.
    """
    if mode not in MODES:
        raise FaceCDMError(f"mode is {mode!r}; choose one of {', '.join(MODES)}.")
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        Faces((), "").required("Combine Faces")
    require_same_recogniser([part.faces for part in parts], "The faces to combine")
    if mode == "concatenate":
        used = [part.faces for part in parts if part.weight > 0]
        if len(used) == 1:
            return used[0]
        faces = tuple(face for part in used for face in part)
        return Faces(faces, parts[0].faces.recogniser).required("Combine Faces (every weight is 0)")
    if mode == "blend two people":
        return _blend(parts, blend)
    return _mean(parts)


def mean_direction(faces: Faces) -> tuple[Tensor, float]:
    """(unit mean of the normed embeddings [D], mean length of the raw ones). Raises BadFace if they cancel out."""
    return _unit(faces.normed.mean(0)), float(faces.raw.norm(dim=-1).mean())


def _mean(parts: list[Weighted]) -> Faces:
    weights = torch.tensor([part.weight for part in parts])
    if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise FaceCDMError("Weights must be 0 or more, and at least one above 0.")
    weights = weights / weights.sum()
    directions, lengths = zip(*(mean_direction(part.faces) for part in parts), strict=True)
    direction = _unit((weights[:, None] * torch.stack(directions)).sum(0))
    length = float((weights * torch.tensor(lengths)).sum())
    used = [part for part, weight in zip(parts, weights, strict=True) if weight > 0]
    return _combined(direction * length, used, "mean")


def _blend(parts: list[Weighted], factor: float) -> Faces:
    if len(parts) != 2:
        raise FaceCDMError(f"To blend two people, connect two FACES with a face in each (now {len(parts)}).")
    if not 0 <= factor <= 1:
        raise FaceCDMError(f"blend must lie between 0 and 1, not {factor:g}.")
    (a, length_a), (b, length_b) = (mean_direction(part.faces) for part in parts)
    length = (1 - factor) * length_a + factor * length_b
    return _combined(slerp(a, b, factor) * length, parts, "blend")


def slerp(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """The unit vector on the arc from unit vector a (factor 0) to b (factor 1). Raises BadFace if they are opposite.

    Shoemake, "Animating rotation with quaternion curves", 1985.
    """
    angle = torch.arccos((a * b).sum().clamp(-1, 1))
    if angle < 1e-4:
        return _unit(torch.lerp(a, b, factor))
    if torch.pi - angle < 1e-3:
        raise BadFace("The embeddings of the two people are opposite, so there is no blend between them.")
    return _unit((torch.sin((1 - factor) * angle) * a + torch.sin(factor * angle) * b) / torch.sin(angle))


def _unit(vector: Tensor) -> Tensor:
    length = vector.norm()
    if length < 1e-6:
        raise BadFace("These faces cancel each other: the mean of their embeddings is zero.")
    return vector / length


def _combined(embedding: Tensor, parts: list[Weighted], how: str) -> Faces:
    faces = [face for part in parts for face in part.faces]
    nearest: Face = max(faces, key=lambda face: float(torch.cosine_similarity(face.embedding, embedding, dim=0)))
    names = list(dict.fromkeys(face.name for face in faces if face.name))
    name = f"{how} of {', '.join(names)}" if len(names) > 1 else (names or [""])[0]
    combined = replace(nearest, embedding=embedding.float(), name=name)
    return Faces((combined,), parts[0].faces.recogniser)
