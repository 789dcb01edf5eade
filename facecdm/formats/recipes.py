"""Feature recipes that several families share, and functions for the steps of a recipe."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter.features import Features
from ..adapter.references import MEAN
from ..errors import FaceCDMError, Mismatch
from ..faces.value import Faces, same_recogniser
from .crops import close_ups
from .encoders import PENULTIMATE, POOLED, encoder_of
from .family import FACE, NORMED, WHOLE, FeaturePair
from .recognised import Recognised
from .sources import Sources
from .vision import FaceTower, VisionOutput, VisionTower

# What the negative prompt gets without a `negative_image`: an empty picture, whose pooled embedding is zeros; a black
# picture; zeros in place of a tower's output; or nothing.
EMPTY, BLACK, ZEROS, NOTHING = "empty", "black", "zeros", ""
_BLACK_PICTURE = torch.zeros(1, 64, 64, 3)


@dataclass(frozen=True)
class FaceEmbedding:
    """The recogniser's embedding only; with `empty`, the negative prompt gets the tokens of a zero embedding."""

    embedding: str = NORMED
    empty: bool = True
    picture = vision = ""

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        shown = Features(face_embeddings(part, sources), None, sources.shortcut)
        return shown, shown.empty() if self.empty else None


@dataclass(frozen=True)
class Pictures:
    """A vision tower's output for the whole image or for a square around each face.

    For the negative prompt it is the output for `negative_image`. Without a `negative_image`, it is the output for an
    EMPTY or BLACK picture, ZEROS, or NOTHING, by `without_image`.
    """

    vision: str = PENULTIMATE
    picture: str = WHOLE
    without_image: str = EMPTY
    embedding = ""

    @property
    def empty(self) -> bool:
        return self.without_image != NOTHING

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        if not sources.has_pictures:
            vision = "" if sources.clip_vision else ", and its CLIP vision model to clip_vision"
            raise FaceCDMError(f"{part.family.name} needs {self.picture}: connect a picture to image{vision}")
        shown = self._features(check_output(self._output(part, sources), part))
        if sources.negative_image is None and not self.empty:
            return shown, None
        if sources.negative_image is None and self.without_image == EMPTY and self.vision == POOLED:
            return shown, shown.empty()
        if sources.negative_image is None and self.without_image == ZEROS:
            return shown, shown.empty(torch.zeros_like(shown.states))
        return shown, self._features(negative_output(part, sources, self.without_image))

    def _output(self, part: Recognised, sources: Sources) -> VisionOutput:
        if sources.encoded is not None:
            return sources.encoded
        tower, pictures = tower_of(part, sources), sources.image
        if self.picture == FACE and sources.faces is not None and len(sources.faces):
            pictures = close_ups(sources.faces, pictures)
        return tower.encode(pictures)

    def _features(self, output: VisionOutput) -> Features:
        return Features(output.pooled) if self.vision == POOLED else Features(states=output.states)


# ---- steps ----


def face_embeddings(part: Recognised, sources: Sources) -> Tensor:
    """Face embeddings [faces, width], normed or raw. Raises NoFace, Mismatch (another recogniser), FaceCDMError."""
    family, faces = part.family, required_faces(sources)
    check_recogniser(family.name, family.recogniser, faces)
    check_face_width(faces, part.sizes.face_width)
    return faces.normed if family.recipe.embedding == NORMED else faces.raw


def check_recogniser(name: str, wanted: str, faces: Faces) -> None:
    """Raises Mismatch if the faces are of another recogniser than the `wanted` one (pack/file) of adapter `name`."""
    if not same_recogniser(wanted, faces.recogniser):
        raise Mismatch(
            f"{name} was trained with the recogniser {wanted}, and faces come from {faces.recogniser}: choose the face "
            f"pack {wanted.split('/')[0]} in Load Face Analyzer"
        )


def required_faces(sources: Sources) -> Faces:
    if sources.faces is None:
        raise FaceCDMError("this adapter has a face stream: connect faces (from Detect & Embed Faces or Load Faces)")
    return sources.faces.required("Apply FaceCDM's faces")


def check_face_width(faces: Faces, width: int) -> None:
    if faces.dim != width:
        raise Mismatch(
            f"faces has {faces.dim} features per face (recogniser {faces.recogniser}), and the "
            f"adapter reads {width}: use the recogniser that the adapter was trained with"
        )


def tower_of(part: Recognised, sources: Sources) -> VisionTower:
    """The connected CLIP vision tower. Raises FaceCDMError if there is none, Mismatch if it is PuLID's."""
    if sources.clip_vision is None:
        raise FaceCDMError(
            f"{part.family.name} encodes {part.family.recipe.picture} with a CLIP vision model, also for the "
            f"negative prompt, and clip_vision is not connected: {where_to_get(part)}"
        )
    if isinstance(sources.clip_vision, FaceTower):
        raise Mismatch(
            f"clip_vision is PuLID's EVA-CLIP, and {part.family.name} uses another tower: {where_to_get(part)}"
        )
    return sources.clip_vision


def negative_output(part: Recognised, sources: Sources, without_image: str = EMPTY) -> VisionOutput:
    """The tower's output for the negative prompt: of `negative_image`, else of an empty or a black picture."""
    tower = tower_of(part, sources)
    if sources.negative_image is None:
        return check_output(tower.encode_empty() if without_image == EMPTY else tower.encode(_BLACK_PICTURE), part)
    output = check_output(tower.encode(sources.negative_image), part)
    return output.mean() if sources.references == MEAN else output


def check_output(output: VisionOutput, part: Recognised) -> VisionOutput:
    """Raises Mismatch if the tower is not the one that the adapter was trained with."""
    pooled, states = output.pooled.shape[-1], output.states.shape[-1]
    width = pooled if part.family.recipe.vision == POOLED else states  # as wide as the last states
    if part.family.recipe.vision == POOLED and output.pooled.ndim == 3:
        raise Mismatch(
            f"core's Load CLIP Vision leaves out SigLIP's pooling, and {part.family.name} reads the pooled embedding: "
            "connect clip_vision of Load FaceCDM Adapter"
        )
    if width == part.sizes.vision_width:
        return output
    found = encoder_of(pooled, states)
    raise Mismatch(
        f"the CLIP vision model gives {width} features{f' ({found.name})' if found else ''}, and {part.path.name} "
        f"({part.family.name}) reads {part.sizes.vision_width}: {where_to_get(part)}"
    )


def where_to_get(part: Recognised) -> str:
    if part.encoder is None:
        return f"load the CLIP vision model of {part.sizes.vision_width} features that it was trained with"
    return (
        f"connect clip_vision of Load FaceCDM Adapter, which loads {part.encoder.file} ({part.encoder.name}) from "
        "models/clip_vision"
    )
