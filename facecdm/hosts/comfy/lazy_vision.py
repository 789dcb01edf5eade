"""A CLIP_VISION that is loaded when it is first used."""

from collections.abc import Callable
from functools import cached_property

from torch import Tensor

from ...faces.value import Faces


class LazyVision:
    """A proxy for the loaded CLIP_VISION's attributes. The first use raises any error of `load`."""

    def __init__(self, load: Callable[[], object]):
        self._load = load

    @cached_property
    def _tower(self):
        return self._load()

    def __getattr__(self, name: str):
        if name.startswith("_") or name in ("encode_faces", "face_states"):  # read to tell towers apart; must not load
            raise AttributeError(name)
        return getattr(self._tower, name)


class LazyFaceTower(LazyVision):
    """A FaceTower (formats.vision)."""

    def encode_faces(self, faces: Faces, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._tower.encode_faces(faces, pictures)


class LazyFaceStates(LazyVision):
    """The CLIP_VISION of a FaceStatesTower (formats.vision)."""

    def face_states(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self._tower.face_states(crops)
