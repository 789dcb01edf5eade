"""Recognisers for evaluation: InsightFace's packs, and dlib, which our training never uses."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import MissingPackage


@dataclass(frozen=True, eq=False)
class RecognisedFace:
    """The largest face of a picture: unit `embedding` [D], and `keypoints` [5, 2] in pixels if known."""

    embedding: Tensor
    keypoints: np.ndarray | None = None


class Recogniser(Protocol):
    name: str

    def recognise(self, picture: np.ndarray) -> RecognisedFace | None:
        """The largest face of an RGB picture, uint8 [H, W, 3]; None if there is no face."""


class InsightFace:
    """A pack below a folder models/insightface. Raises MissingModel, MissingPackage, BadFile."""

    def __init__(self, folder: Path, pack: str):
        from ..faces.analyzer import open_pack

        self._analyzer = open_pack([folder], pack)
        self.name = self._analyzer.recogniser

    @classmethod
    def of(cls, analyzer) -> "InsightFace":
        """Use an analyzer that is already open."""
        made = cls.__new__(cls)
        made._analyzer, made.name = analyzer, analyzer.recogniser
        return made

    def recognise(self, picture: np.ndarray) -> RecognisedFace | None:
        from ..faces.detect import Options, detect_faces

        image = torch.from_numpy(np.array(picture))[None].float() / 255
        faces = detect_faces(self._analyzer, image, Options(crop_size=16)).faces
        return RecognisedFace(faces.normed[0], faces[0].keypoints.numpy()) if len(faces) else None


class Dlib:
    """dlib's ResNet (King 2017) with its own detector; the weights come with face_recognition_models.

    The detector (HOG) misses small and blurred faces. For these, another recogniser, `find`, may give key points. The
    embedding is still dlib's.
    """

    name = "dlib"

    def __init__(self, find: Callable[[np.ndarray], RecognisedFace | None] | None = None):
        self._find = find
        # Importing face_recognition_models needs an old setuptools; its files do not.
        files = importlib.util.find_spec("face_recognition_models")
        try:
            import dlib
        except ImportError:
            files = None
        if files is None:
            raise MissingPackage(
                "dlib as a second recogniser needs two packages: pip install dlib "
                "face_recognition_models (without a compiler: dlib-bin)"
            )
        folder = Path(files.submodule_search_locations[0]) / "models"
        self._detect = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._net = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def recognise(self, picture: np.ndarray) -> RecognisedFace | None:
        picture = np.ascontiguousarray(picture)
        boxes = self._detect(picture, 1)
        box = max(boxes, key=lambda box: box.area()) if boxes else self._box_of_find(picture)
        if box is None:
            return None
        found = self._net.compute_face_descriptor(picture, self._shape(picture, box))
        return RecognisedFace(torch.nn.functional.normalize(torch.tensor(list(found)), dim=0))

    def _box_of_find(self, picture: np.ndarray):
        """dlib's box for the face that `find` detects: its side is about 2.32 times the distance from eyes to mouth."""
        import dlib

        face = self._find(picture) if self._find is not None else None
        if face is None or face.keypoints is None:
            return None
        eyes, mouth = face.keypoints[:2].mean(0), face.keypoints[3:].mean(0)
        centre, half = (eyes + mouth) / 2, 2.32 / 2 * np.linalg.norm(mouth - eyes)
        return dlib.rectangle(*(int(round(float(at))) for at in (*(centre - half), *(centre + half))))
