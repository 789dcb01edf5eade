"""Identity similarity of faces: cosines of their embeddings, as numbers and as a table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .value import Face, Faces, require_same_recogniser


@dataclass(frozen=True)
class Comparison:
    """Cosines −1 … 1: `matrix` [rows, columns] of all, and `pairs` without comparisons of a face with itself."""

    rows: Faces
    columns: Faces
    matrix: Tensor
    pairs: Tensor

    @property
    def mean(self) -> float:
        return float(self.pairs.mean())

    @property
    def lowest(self) -> float:
        return float(self.pairs.min())

    @property
    def highest(self) -> float:
        return float(self.pairs.max())


def compare(a: Faces, b: Faces | None = None, baseline: Faces | None = None) -> Comparison:
    """Compare every face of a with every face of b, or the faces of a with each other if b is None.

    baseline: faces of other people in the same kind of picture, such as renders. Their mean normed embedding is
    subtracted before the cosine, because all such pictures share it. Raises NoFace, Mismatch.
    """
    a.required("Faces A")
    if b is not None:
        b.required("Faces B")
    others = [part for part in (b, baseline) if part is not None]
    require_same_recogniser([a, *others], "The faces to compare")
    shared = baseline.required("The baseline").normed.mean(0) if baseline is not None else 0.0
    rows = _centred(a, shared)
    matrix = (rows @ (rows if b is None else _centred(b, shared)).T).clamp(-1, 1)
    pairs = matrix.flatten()
    if b is None and len(a) > 1:  # without the diagonal
        pairs = matrix[~torch.eye(len(a), dtype=torch.bool)]
    return Comparison(a, a if b is None else b, matrix, pairs)


def _centred(faces: Faces, shared: Tensor | float) -> Tensor:
    return torch.nn.functional.normalize(faces.normed - shared, dim=-1)


def label(face: Face, index: int) -> str:
    return face.name.replace("|", "/").replace("\n", " ") or f"face {index + 1}"


def table(comparison: Comparison) -> str:
    """The matrix as a Markdown table, below a summary."""
    columns = [label(face, i) for i, face in enumerate(comparison.columns)]
    lines = [
        f"Similarity (cosine): mean {comparison.mean:.3f}, lowest {comparison.lowest:.3f}, "
        f"highest {comparison.highest:.3f}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for i, (face, row) in enumerate(zip(comparison.rows, comparison.matrix, strict=True)):
        lines.append(f"| {label(face, i)} | " + " | ".join(f"{value:.3f}" for value in row.tolist()) + " |")
    return "\n".join(lines)
