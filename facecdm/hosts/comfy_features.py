"""What an adapter is shown of faces and pictures: each family's way of looking, and what stands for no picture."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.features import Features
from ..errors import FaceCDMError, Mismatch
from ..faces.value import Faces, same_recogniser
from ..formats.crops import aligned, close_ups
from ..formats.families import ALIGNED, ENCODERS, FACE, NORMED, POOLED, ZEROS
from ..formats.pulid import identity
from ..formats.recognise import Recognised
from .comfy_vision import Seen, look, look_at_nothing

MEAN, SIDE_BY_SIDE, PER_PICTURE = "mean", "side by side", "one per picture"
REFERENCES = (MEAN, SIDE_BY_SIDE, PER_PICTURE)


@dataclass(frozen=True, eq=False)
class Sources:
    """What is connected: faces, a vision tower and pictures [B, H, W, 3] (or what it said of them), the picture that
    the negative prompt sees, and how several references become one.
    """

    faces: Faces | None = None
    clip_vision: object = None
    image: Tensor | None = None
    encoded: object = None
    negative_image: Tensor | None = None
    references: str = MEAN
    weights: tuple[float, ...] = ()
    shortcut: float = 1.0
    noise: float = 0.0  # in the empty face that the negative prompt sees


@dataclass(frozen=True, eq=False)
class Shown:
    """A Person's `face`, `image` and `negative`, and the weights of references that are not one mean."""

    face: Tensor | Features | None = None
    image: Tensor | Features | None = None
    negative: dict[str, Features] = field(default_factory=dict)
    apart: tuple[float, ...] = ()

    def weights(self, stream: str) -> tuple[float, ...]:
        """A stream's weights: none where it has one reference. Raises FaceCDMError: another number of references."""
        given = self.face if stream == "face" else self.image
        count = 0 if given is None else given.count if isinstance(given, Features) else len(given)
        return self.apart if count > 1 and _weights(self.apart, count) is not None else ()


def features(adapter, sources: Sources) -> Shown:
    """What a Person holds against the model. Raises NoFace, Mismatch, FaceCDMError: something needed is not connected,
    or does not fit the adapter.
    """
    if sources.references == PER_PICTURE and sources.faces is not None:
        sources = replace(sources, faces=_one_a_picture(sources.faces))
    parts = getattr(adapter.config, "parts", None)
    apart = sources.weights if sources.references != MEAN else ()
    if parts is None:
        return Shown(_own_face(adapter.config, sources), _own_image(adapter.config, sources), {}, apart)
    if "image" not in parts and sources.encoded is not None:
        raise Mismatch("this adapter has no image stream: disconnect clip_vision_output, or combine the adapter with "
                       "one that has (Combine Adapters)")
    shown, negative = {}, {}
    for stream, part in parts.items():
        given = _face(part, sources) if stream == "face" else _image(part, sources, optional="face" in parts)
        if given is not None:
            shown[stream], negative[stream] = _merged(part, sources, *given)
    if "face" in negative and sources.noise:
        negative["face"] = negative["face"].noisy(sources.noise, shown["face"])
    return Shown(shown.get("face"), shown.get("image"), negative, apart)


# ---- FaceCDM's own adapters ----


def _own_face(config, sources: Sources) -> Tensor:
    """Unit embeddings [1 or references, width]."""
    faces = _required(sources.faces)
    if config.recogniser and not same_recogniser(config.recogniser, faces.recogniser):
        raise Mismatch(f"the adapter was trained with the recogniser {config.recogniser}, and faces come from "
                       f"{faces.recogniser}: choose the first in Load Face Analyzer")
    _check_width(faces, config.face_width)
    if sources.references != MEAN:
        return Features(faces.normed).repeated(_frames(sources, len(faces))).embedding
    return F.normalize((faces.normed * _shares(sources.weights, len(faces))).sum(0, keepdim=True), dim=1)


def _own_image(config, sources: Sources) -> Tensor | None:
    """Vision states [pictures, N, width], or None where no image is connected."""
    if sources.encoded is None and sources.image is None:
        return None
    if sources.encoded is None and sources.clip_vision is None:
        raise FaceCDMError("image is connected and clip_vision is not: connect the CLIP vision model that the adapter "
                           "was made with, or disconnect the image")
    if not config.image_width:
        raise Mismatch("this adapter has no image stream: disconnect image and clip_vision_output, or use an adapter "
                       "that was made with a CLIP vision model")
    states = _seen(sources).states
    if states.shape[-1] != config.image_width:
        raise Mismatch(f"the CLIP vision model gives {states.shape[-1]} features, and the adapter reads "
                       f"{config.image_width}: load the CLIP vision model that the adapter was made with")
    return states


# ---- published adapters ----


def _face(part: Recognised, sources: Sources) -> tuple[Features, Features]:
    """(of every face, of no face)."""
    family, faces = part.family, _required(sources.faces)
    if not same_recogniser(family.recogniser, faces.recogniser):
        pack = family.recogniser.split("/")[0]
        raise Mismatch(f"{family.name} was trained with the recogniser {family.recogniser}, and faces come from "
                       f"{faces.recogniser}: choose the face pack {pack} in Load Face Analyzer")
    embedding, states = faces.normed if family.embedding == NORMED else faces.raw, None
    _check_width(faces, part.face_width)
    if family.negative == ZEROS:
        seen, states = _look_as_pulid(sources, faces)
        embedding = identity(embedding, seen)
    if family.picture == ALIGNED:
        _need_vision(part, sources)
        upright = aligned(faces, sources.image, 224 if part.layer_map.context == 768 else 256)
        states = _checked(look(sources.clip_vision, upright), part).states
    shown = Features(embedding, states, sources.shortcut)
    if states is None:
        return shown, shown.nothing()
    nothing = (tuple(torch.zeros_like(state) for state in states) if family.negative == ZEROS
               else look_at_nothing(sources.clip_vision).states)
    return shown, shown.nothing(nothing)


def _image(part: Recognised, sources: Sources, optional: bool) -> tuple[Features, Features] | None:
    """(of every picture, of no picture); None where no picture is connected and none need be."""
    if sources.image is None and sources.encoded is None:
        if optional:
            return None
        raise FaceCDMError(f"{part.family.name} looks at {part.family.picture}: connect a picture to image"
                           f"{'' if sources.clip_vision else ', and its CLIP vision model to clip_vision'}")
    pooled = part.family.vision == POOLED
    if sources.encoded is None:
        _need_vision(part, sources)
    picture = sources.image
    if part.family.picture == FACE and sources.encoded is None and sources.faces is not None and len(sources.faces):
        picture = close_ups(sources.faces, picture)
    seen = _checked(_seen(sources, picture), part)
    shown = Features(seen.pooled if pooled else None, None if pooled else seen.states)
    if sources.negative_image is None and pooled:
        return shown, shown.nothing()
    _need_vision(part, sources)
    nothing = (look_at_nothing(sources.clip_vision) if sources.negative_image is None
               else _checked(look(sources.clip_vision, sources.negative_image), part))
    return shown, Features(nothing.pooled if pooled else None, None if pooled else nothing.states)


def _merged(part: Recognised, sources: Sources, shown: Features, nothing: Features) -> tuple[Features, Features]:
    """The references as one, or as many as they are, and as much of nothing."""
    if sources.references == MEAN and shown.count > 1:
        shown = shown.mean(_weights(sources.weights, shown.count), unit=part.family.embedding == NORMED)
    shown = shown.repeated(_frames(sources, shown.count))
    return shown, nothing.repeated(shown.count)


def _seen(sources: Sources, picture: Tensor | None = None) -> Seen:
    if sources.encoded is not None:
        return Seen.of(sources.encoded)
    return look(sources.clip_vision, sources.image if picture is None else picture)


def _need_vision(part: Recognised, sources: Sources) -> None:
    if sources.clip_vision is None:
        raise FaceCDMError(f"{part.family.name} looks at {part.family.picture} with a CLIP vision model, for the "
                           f"negative prompt too, and clip_vision is not connected: {_get(part)}")
    if hasattr(sources.clip_vision, "look_at"):
        raise Mismatch(f"clip_vision is PuLID's EVA-CLIP, and {part.family.name} looks with another: {_get(part)}")


def _checked(seen: Seen, part: Recognised) -> Seen:
    """Raises Mismatch where the tower is not the one that the adapter was trained with."""
    width = (seen.pooled if part.family.vision == POOLED else seen.states).shape[-1]
    if width == part.vision_width:
        return seen
    found = next((f" ({tower.name})" for tower in ENCODERS
                  if (tower.pooled, tower.states) == (seen.pooled.shape[-1], seen.states.shape[-1])), "")
    raise Mismatch(f"the CLIP vision model gives {width} features{found}, and {part.path.name} ({part.family.name}) "
                   f"reads {part.vision_width}: {_get(part)}")


def _get(part: Recognised) -> str:
    if part.encoder is None:
        return f"load the CLIP vision model of {part.vision_width} features that it was trained with"
    return f"load {part.encoder.file} ({part.encoder.name}; models/clip_vision) with Load CLIP Vision"


def _look_as_pulid(sources: Sources, faces: Faces) -> tuple[Tensor, tuple[Tensor, ...]]:
    if not hasattr(sources.clip_vision, "look_at"):
        raise Mismatch("PuLID looks at faces with EVA02_CLIP_L_336_psz14_s6B.pt: connect Load EVA CLIP to clip_vision")
    if sources.image is None:
        raise FaceCDMError("PuLID looks at the faces in their pictures: connect to image what Detect & Embed Faces saw")
    return sources.clip_vision.look_at(faces, sources.image)


def _frames(sources: Sources, references: int) -> int:
    """How many references there must be: one for each frame's weight, where these are given."""
    return max(references, len(sources.weights)) if sources.references == PER_PICTURE else references


def _one_a_picture(faces: Faces) -> Faces:
    """Of a video's frames: a face for each, the one before it where none was found, or the first one."""
    found = {face.image_index: face for face in faces}
    if len(found) < len(faces) or len(faces) < 2:  # photos from several nodes, all of them number 0
        return faces
    places = sorted(found)
    at = [max((place for place in places if place <= frame), default=places[0]) for frame in range(places[-1] + 1)]
    return replace(faces, faces=tuple(found[place] for place in at))


# ---- checks ----


def _required(faces: Faces | None) -> Faces:
    if faces is None:
        raise FaceCDMError("this adapter shows a face: connect faces (from Detect & Embed Faces or Load Faces)")
    return faces.required("Apply FaceCDM's faces")


def _check_width(faces: Faces, width: int) -> None:
    if faces.dim != width:
        raise Mismatch(f"faces has {faces.dim} features a face (recogniser {faces.recogniser}), and the "
                       f"adapter reads {width}: use the recogniser that the adapter was trained with")


def _weights(weights: tuple[float, ...], count: int) -> Tensor | None:
    if not weights:
        return None
    if len(weights) != count or not sum(weights):
        raise FaceCDMError(f"reference_weights has {len(weights)} numbers (sum {sum(weights):g}) for {count} "
                           "references: write one for each, not all zero")
    return torch.tensor(weights)


def _shares(weights: tuple[float, ...], count: int) -> Tensor:
    given = _weights(weights, count)
    given = torch.ones(count) if given is None else given
    return (given / given.sum())[:, None]
