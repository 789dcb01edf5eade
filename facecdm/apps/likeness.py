"""How much the person in a picture is the person in another, measured outside the graph."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NoFace

if TYPE_CHECKING:
    from PIL.Image import Image


class Likeness:
    """Cosines of face embeddings, by one of InsightFace's packs below `models`/insightface."""

    def __init__(self, models: Path, pack: str):
        """Raises MissingModel, MissingPackage, BadFile."""
        from ..faces.analyzer import open_pack

        self._analyzer = open_pack([models / "insightface"], pack)
        self._references: dict[str, object] = {}

    def refer(self, name: str, picture: "Image") -> None:
        """Keeps the largest face of a picture under a name; raises NoFace."""
        faces = self._largest(picture)
        if not len(faces):
            raise NoFace(f"no face was found in the reference {name}: choose a picture with a clear face")
        self._references[name] = faces

    def of(self, name: str, picture: "Image") -> float | None:
        """Cosine, -1 … 1, of the largest face to that reference; None where the picture shows no face."""
        from ..faces.compare import compare

        faces = self._largest(picture)
        return float(compare(faces, self._references[name]).matrix[0, 0]) if len(faces) else None

    def look(self, name: str | None, picture: "Image") -> tuple[float | None, int, float | None]:
        """(cosine to that reference, None without one; number of faces; score of the largest, None without one)."""
        from ..faces.compare import compare

        seen = self._detect(picture)
        if not len(seen.faces):
            return None, len(seen.pictures[0].found), None
        cosine = None if name is None else float(compare(seen.faces, self._references[name]).matrix[0, 0])
        return cosine, len(seen.pictures[0].found), float(seen.faces[0].score)

    def _largest(self, picture: "Image"):
        return self._detect(picture).faces

    def _detect(self, picture: "Image"):
        import numpy
        import torch

        from ..faces.detect import Options, detect_faces

        image = torch.from_numpy(numpy.asarray(picture.convert("RGB")).copy()).float().div(255)
        return detect_faces(self._analyzer, image[None], Options())
