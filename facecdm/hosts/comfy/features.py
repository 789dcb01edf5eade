"""What an adapter is shown of faces and pictures: each family's way of looking, and what stands for no picture."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...adapter.features import Features
from ...adapter.references import MEAN, PER_PICTURE, check_weights, merged, one_per_image
from ...bases import base_of
from ...errors import FaceCDMError, Mismatch
from ...faces.value import Faces, same_recogniser
from ...formats.crops import aligned, close_ups
from ...formats.families import ALIGNED, ENCODERS, FACE, NORMED, POOLED, ZEROS
from ...formats.negative import check_noise, stream_of_negative_image
from ...formats.pulid import identity
from ...formats.recognise import Recognised
from ...formats.unused_inputs import face_not_in_image, unused_images
from .vision import VisionOutput, encode_empty_image, look


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

    @property
    def apart(self) -> tuple[float, ...]:
        """The weights of references that do not become one mean."""
        return self.weights if self.references != MEAN else ()


@dataclass(frozen=True, eq=False)
class PreparedInputs:
    """A Person's `face`, `image` and `negative`, the weights of references that are not one mean, and sentences on what
    is connected and changes nothing.
    """

    face: Tensor | Features | None = None
    image: Tensor | Features | None = None
    negative: dict[str, Features] = field(default_factory=dict)
    apart: tuple[float, ...] = ()
    unused_inputs: tuple[str, ...] = ()

    def weights(self, stream: str) -> tuple[float, ...]:
        """A stream's weights: none where it has another number of references."""
        given = self.face if stream == "face" else self.image
        return self.apart if given is not None and _count(given) == len(self.apart) else ()


def features(adapter, sources: Sources) -> PreparedInputs:
    """What a Person holds against the model. Raises NoFace, Mismatch, FaceCDMError: something needed is not connected,
    does not fit the adapter, or is nothing that it uses.
    """
    if sources.references == PER_PICTURE and sources.faces is not None:
        sources = replace(sources, faces=one_per_image(sources.faces))
    parts = getattr(adapter.config, "parts", None)
    avoiding = None
    if sources.negative_image is not None:
        pictures = sources.image is not None or sources.encoded is not None
        avoiding = stream_of_negative_image(parts, pictures)
    if sources.noise:
        check_noise(parts, sources.noise)
    if parts is None:
        return _own(adapter.config, sources)
    if "image" not in parts and sources.encoded is not None:
        raise Mismatch(
            "this adapter has no image stream: disconnect clip_vision_output, or combine the adapter with "
            "one that has (Combine Adapters)"
        )
    if "face" in parts and "image" in parts:
        _check_towers(parts, sources)
    unused_inputs = unused_images(
        parts, tuple(name for name in ("image", "clip_vision") if getattr(sources, name) is not None)
    )
    given = {}
    for stream, part in parts.items():
        own = sources if stream == avoiding else replace(sources, negative_image=None)
        lost = face_not_in_image(part, own.faces, own.image if stream == "face" or own.encoded is None else None)
        if lost:  # nor looked for again
            unused_inputs += (lost,)
            own = replace(own, image=None) if stream == "face" else replace(own, faces=None)
        seen = _face(part, own) if stream == "face" else _image(part, own, optional="face" in parts)
        if seen is not None:
            given[stream] = seen
    check_weights(sources.weights, [shown.count for shown, _ in given.values()], sources.references)
    shown = {
        stream: merged(seen, sources.references, sources.weights, parts[stream].family.embedding == NORMED)
        for stream, (seen, _) in given.items()
    }
    negative = {stream: nothing.repeated(shown[stream].count) for stream, (_, nothing) in given.items()}
    if sources.noise:
        negative["face"] = negative["face"].noisy(sources.noise, shown["face"])
    return PreparedInputs(shown.get("face"), shown.get("image"), negative, sources.apart, unused_inputs)


def _count(given: Tensor | Features) -> int:
    return given.count if isinstance(given, Features) else len(given)


# ---- FaceCDM's own adapters ----


def _own(config, sources: Sources) -> PreparedInputs:
    """Unit embeddings [1 or references, width]; pictures stay as many as they are."""
    face, image = Features(_own_face(config, sources)), _own_image(config, sources)
    apart = sources.references != MEAN and image is not None
    check_weights(sources.weights, [face.count, *([len(image)] if apart else ())], sources.references)
    face = merged(face, sources.references, sources.weights, unit=True)
    if apart:
        image = merged(Features(states=image), sources.references, sources.weights).states
    return PreparedInputs(face.embedding, image, {}, sources.apart)


def _own_face(config, sources: Sources) -> Tensor:
    """Unit embeddings [faces, width]."""
    faces = _required(sources.faces)
    if config.recogniser and not same_recogniser(config.recogniser, faces.recogniser):
        raise Mismatch(
            f"the adapter was trained with the recogniser {config.recogniser}, and faces come from "
            f"{faces.recogniser}: choose the first in Load Face Analyzer"
        )
    _check_width(faces, config.face_width)
    return faces.normed


def _own_image(config, sources: Sources) -> Tensor | None:
    """Vision states [pictures, N, width], or None where no image is connected."""
    if sources.encoded is None and sources.image is None:
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
    states = _seen(sources).states
    if states.shape[-1] != config.image_width:
        raise Mismatch(
            f"the CLIP vision model gives {states.shape[-1]} features, and the adapter reads "
            f"{config.image_width}: load the CLIP vision model that the adapter was made with"
        )
    return states


# ---- published adapters ----


def _face(part: Recognised, sources: Sources) -> tuple[Features, Features]:
    """(of every face, of no face)."""
    family, faces = part.family, _required(sources.faces)
    if not same_recogniser(family.recogniser, faces.recogniser):
        pack = family.recogniser.split("/")[0]
        raise Mismatch(
            f"{family.name} was trained with the recogniser {family.recogniser}, and faces come from "
            f"{faces.recogniser}: choose the face pack {pack} in Load Face Analyzer"
        )
    embedding, states = faces.normed if family.embedding == NORMED else faces.raw, None
    _check_width(faces, part.face_width)
    if family.negative == ZEROS:
        seen, states = _look_as_pulid(sources, faces)
        embedding = identity(embedding, seen)
    if family.picture == ALIGNED:
        _need_vision(part, sources)
        upright = aligned(faces, sources.image, base_of(part.layer_map).face_crop)
        states = _checked(look(sources.clip_vision, upright), part).states
    shown = Features(embedding, states, sources.shortcut)
    if states is None:
        return shown, shown.nothing()
    nothing = (
        tuple(torch.zeros_like(state) for state in states) if family.negative == ZEROS else _empty(part, sources).states
    )
    return shown, shown.nothing(nothing)


def _image(part: Recognised, sources: Sources, optional: bool) -> tuple[Features, Features] | None:
    """(of every picture, of no picture); None where no picture is connected and none need be."""
    if sources.image is None and sources.encoded is None:
        if optional:
            return None
        raise FaceCDMError(
            f"{part.family.name} looks at {part.family.picture}: connect a picture to image"
            f"{'' if sources.clip_vision else ', and its CLIP vision model to clip_vision'}"
        )
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
    nothing = _empty(part, sources)
    return shown, Features(nothing.pooled if pooled else None, None if pooled else nothing.states)


def _empty(part: Recognised, sources: Sources) -> VisionOutput:
    """What the negative prompt sees in a picture's place: no picture, or those that are to be avoided."""
    _need_vision(part, sources)
    if sources.negative_image is None:
        return _checked(encode_empty_image(sources.clip_vision), part)
    seen = _checked(look(sources.clip_vision, sources.negative_image), part)
    if sources.references != MEAN:
        return seen
    return VisionOutput(seen.pooled.mean(0, keepdim=True), seen.states.mean(0, keepdim=True))


def _seen(sources: Sources, picture: Tensor | None = None) -> VisionOutput:
    if sources.encoded is not None:
        return VisionOutput.of(sources.encoded)
    return look(sources.clip_vision, sources.image if picture is None else picture)


def _need_vision(part: Recognised, sources: Sources) -> None:
    if sources.clip_vision is None:
        raise FaceCDMError(
            f"{part.family.name} looks at {part.family.picture} with a CLIP vision model, for the "
            f"negative prompt too, and clip_vision is not connected: {_get(part)}"
        )
    if hasattr(sources.clip_vision, "look_at"):
        raise Mismatch(f"clip_vision is PuLID's EVA-CLIP, and {part.family.name} looks with another: {_get(part)}")


def _check_towers(parts: dict[str, Recognised], sources: Sources) -> None:
    """Raises Mismatch where both streams look, with two towers: there is one clip_vision."""
    face, image = (parts[stream] for stream in ("face", "image"))
    pooled, towers = image.family.vision == POOLED, [part.encoder for part in (face, image) if part.vision_width]
    looks = sources.image is not None if sources.encoded is None else not pooled
    if len(towers) == 2 and None not in towers and towers[0] != towers[1] and looks:
        encoded = ", or connect the picture by CLIP Vision Encode to clip_vision_output" if pooled else ""
        raise Mismatch(
            f"{face.family.name} looks with {towers[0].name} and {image.family.name} with {towers[1].name}, "
            "and there is one clip_vision: load the two files apart and give each an Apply FaceCDM, one "
            f"after the other{encoded}"
        )


def _checked(seen: VisionOutput, part: Recognised) -> VisionOutput:
    """Raises Mismatch where the tower is not the one that the adapter was trained with."""
    width = (seen.pooled if part.family.vision == POOLED else seen.states).shape[-1]
    if width == part.vision_width:
        return seen
    found = next(
        (
            f" ({tower.name})"
            for tower in ENCODERS
            if (tower.pooled, tower.states) == (seen.pooled.shape[-1], seen.states.shape[-1])
        ),
        "",
    )
    raise Mismatch(
        f"the CLIP vision model gives {width} features{found}, and {part.path.name} ({part.family.name}) "
        f"reads {part.vision_width}: {_get(part)}"
    )


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


# ---- checks ----


def _required(faces: Faces | None) -> Faces:
    if faces is None:
        raise FaceCDMError("this adapter shows a face: connect faces (from Detect & Embed Faces or Load Faces)")
    return faces.required("Apply FaceCDM's faces")


def _check_width(faces: Faces, width: int) -> None:
    if faces.dim != width:
        raise Mismatch(
            f"faces has {faces.dim} features a face (recogniser {faces.recogniser}), and the "
            f"adapter reads {width}: use the recogniser that the adapter was trained with"
        )
