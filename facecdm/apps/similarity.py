"""Identity similarity of an image to a reference, measured outside ComfyUI."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NoFace

if TYPE_CHECKING:
    from PIL.Image import Image


class SimilarityMeter:
    """Measures cosines of face embeddings with an InsightFace pack.

    pack  the pack's name
    """

    def __init__(self, models: Path, pack: str | None = None):
        """
        models  ComfyUI's models folder, which has the pack in insightface/
        pack    name of the pack; default: faces.packs.default_pack

        Raises MissingModel, MissingPackage, BadFile.
        """
        from ..faces.analyzer import open_pack
        from ..faces.packs import default_pack

        folders = [models / "insightface"]
        self.pack = pack or default_pack(folders)
        self._analyzer = open_pack(folders, self.pack)
        self._references: dict[str, object] = {}

    def add_reference(self, name: str, picture: "Image") -> None:
        """Store the largest face of an image under a name. Raises NoFace."""
        faces = self._detect(picture).faces
        if not len(faces):
            raise NoFace(f"no face was found in the reference {name}: choose a picture with a clear face")
        self._references[name] = faces

    def measure(self, name: str | None, picture: "Image") -> tuple[float | None, int, float | None]:
        """Return (similarity, count, score) of an image.

        similarity  cosine of the largest face and the reference `name`, -1 … 1; None without a face or a name
        count       number of faces
        score       detection score of the largest face, 0 … 1; None without a face
        """
        from ..faces.compare import compare

        found = self._detect(picture)
        count = len(found.pictures[0].found)
        if not len(found.faces):
            return None, count, None
        cosine = None if name is None else float(compare(found.faces, self._references[name]).matrix[0, 0])
        return cosine, count, float(found.faces[0].score)

    def _detect(self, picture: "Image"):
        import numpy
        import torch

        from ..faces.detect import Options, detect_faces

        image = torch.from_numpy(numpy.asarray(picture.convert("RGB")).copy()).float().div(255)
        return detect_faces(self._analyzer, image[None], Options())
