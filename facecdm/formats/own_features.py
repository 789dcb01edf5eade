"""Features for FaceCDM's own adapters."""

from torch import Tensor

from ..adapter.config import AdapterConfig
from ..adapter.features import Features
from ..adapter.references import MEAN, check_weights, merged
from ..errors import FaceCDMError, Mismatch
from .recipes import check_face_width, check_recogniser, required_faces
from .sources import Sources


def own_features(config: AdapterConfig, sources: Sources) -> tuple[Tensor, Tensor | None]:
    """Unit embeddings [1 or references, width], and vision states [pictures, N, width] or None without an image.

    Raises NoFace, Mismatch, FaceCDMError.
    """
    face, image = Features(_embeddings(config, sources)), _states(config, sources)
    separate = sources.references != MEAN and image is not None
    check_weights(sources.weights, [face.count, *([len(image)] if separate else ())], sources.references)
    face = merged(face, sources.references, sources.weights, unit=True)
    if separate:
        image = merged(Features(states=image), sources.references, sources.weights).states
    return face.embedding, image


def _embeddings(config: AdapterConfig, sources: Sources) -> Tensor:
    """Unit embeddings [faces, width]."""
    faces = required_faces(sources)
    if config.recogniser:
        check_recogniser("the adapter", config.recogniser, faces)
    check_face_width(faces, config.face_width)
    return faces.normed


def _states(config: AdapterConfig, sources: Sources) -> Tensor | None:
    if not sources.has_pictures:
        return None
    if sources.encoded is None and sources.clip_vision is None:
        raise FaceCDMError(
            "image is connected and clip_vision is not: connect the CLIP vision model that the adapter "
            "was made with, or disconnect the image"
        )
    if not config.image_width:
        raise Mismatch(
            "this adapter has no image stream: disconnect image and clip_vision_output, or use an adapter "
            "that was made with a CLIP vision model"
        )
    output = sources.clip_vision.encode(sources.image) if sources.encoded is None else sources.encoded
    if output.states.shape[-1] != config.image_width:
        raise Mismatch(
            f"the CLIP vision model gives {output.states.shape[-1]} features, and the adapter reads "
            f"{config.image_width}: load the CLIP vision model that the adapter was made with"
        )
    return output.states
