"""Features of the connected faces and pictures for any adapter, by its families' recipes."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from ..adapter.features import Features
from ..adapter.references import PER_PICTURE, check_weights, merged, one_per_image
from ..errors import Mismatch
from .encoders import POOLED
from .family import NORMED, WHOLE, FeaturePair
from .negative import check_noise, stream_of_negative_image
from .own_features import own_features
from .recognised import Recognised
from .sources import Sources
from .unused_inputs import face_not_in_image, image_beside_encoded, unused_faces, unused_images


@dataclass(frozen=True, eq=False)
class PreparedInputs:
    """The inputs of a Person.

    face, image       features of each stream; None if there are none
    negative          features for the negative prompt, by stream
    separate_weights  weights of references that are not averaged
    unused_inputs     warnings for inputs that have no effect
    """

    face: Tensor | Features | None = None
    image: Tensor | Features | None = None
    negative: dict[str, Features] = field(default_factory=dict)
    separate_weights: tuple[float, ...] = ()
    unused_inputs: tuple[str, ...] = ()

    def weights(self, stream: str) -> tuple[float, ...]:
        """A stream's weights; none if their number differs from the number of references."""
        given = self.face if stream == "face" else self.image
        if given is None:
            return ()
        count = given.count if isinstance(given, Features) else len(given)
        return self.separate_weights if count == len(self.separate_weights) else ()


def features(adapter, sources: Sources) -> PreparedInputs:
    """The inputs of a Person with this adapter.

    Raises NoFace, Mismatch, FaceCDMError if a required input is not connected, or an input does not fit the adapter or
    cannot be used by it.
    """
    if sources.references == PER_PICTURE and sources.faces is not None:
        sources = replace(sources, faces=one_per_image(sources.faces))
    parts = getattr(adapter.config, "parts", None)
    negative_stream = None
    if sources.negative_image is not None:
        negative_stream = stream_of_negative_image(parts, sources.has_pictures)
    if sources.noise:
        check_noise(parts, sources.noise)
    if parts is None:
        face, image = own_features(adapter.config, sources)
        unused = image_beside_encoded({}, sources.image, sources.encoded)
        return PreparedInputs(face, image, {}, sources.separate_weights, unused)
    return _published(parts, sources, negative_stream)


def _published(parts: dict[str, Recognised], sources: Sources, negative_stream: str | None) -> PreparedInputs:
    _check_inputs(parts, sources)
    unused = unused_images(
        parts, tuple(name for name in ("image", "clip_vision") if getattr(sources, name) is not None)
    )
    unused += unused_faces(parts, sources.faces) + image_beside_encoded(parts, sources.image, sources.encoded)
    pairs: dict[str, FeaturePair] = {}
    for stream, part in parts.items():
        if stream == "image" and "face" in parts and not sources.has_pictures:
            continue  # only the face stream acts
        own = sources if stream == negative_stream else replace(sources, negative_image=None)
        own, warning = _without_lost_faces(part, own)
        unused += (warning,) if warning else ()
        pairs[stream] = part.family.recipe(part, own)
    check_weights(sources.weights, [positive.count for positive, _ in pairs.values()], sources.references)
    shown = {
        stream: merged(positive, sources.references, sources.weights, parts[stream].family.recipe.embedding == NORMED)
        for stream, (positive, _) in pairs.items()
    }
    negative = {
        stream: empty.repeated(shown[stream].count) for stream, (_, empty) in pairs.items() if empty is not None
    }
    if sources.noise:
        negative["face"] = negative["face"].with_noise(sources.noise, shown["face"])
    return PreparedInputs(shown.get("face"), shown.get("image"), negative, sources.separate_weights, unused)


def _without_lost_faces(part: Recognised, sources: Sources) -> tuple[Sources, str]:
    """Drop pictures (or faces) if the faces are not in them and the recipe would search there; return (sources,
    warning)."""
    face_stream = part.family.stream == "face"
    pictures = sources.image if face_stream or sources.encoded is None else None
    warning = face_not_in_image(part, sources.faces, pictures)
    if not warning or part.family.recipe.picture == WHOLE:
        return sources, warning
    return replace(sources, **{"image" if face_stream else "faces": None}), warning


def _check_inputs(parts: dict[str, Recognised], sources: Sources) -> None:
    """Raises Mismatch for `encoded` without an image stream, or for two streams that need different towers."""
    if "image" not in parts and sources.encoded is not None:
        raise Mismatch(
            "this adapter has no image stream: disconnect clip_vision_output, or combine the adapter with "
            "one that has (Combine FaceCDM Adapters)"
        )
    if len(parts) < 2:
        return
    face, image = parts["face"], parts["image"]
    pooled = image.family.recipe.vision == POOLED
    towers = [part.encoder for part in (face, image) if part.sizes.vision_width]
    used = sources.image is not None if sources.encoded is None else not pooled
    if len(towers) == 2 and None not in towers and towers[0] != towers[1] and used:
        encoded = ", or connect the picture by CLIP Vision Encode to clip_vision_output" if pooled else ""
        raise Mismatch(
            f"{face.family.name} uses the tower {towers[0].name} and {image.family.name} {towers[1].name}, but there "
            "is one clip_vision: load the two files separately and give each an Apply FaceCDM, one "
            f"after the other{encoded}"
        )
