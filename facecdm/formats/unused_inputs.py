"""Warnings for inputs that have no effect or that an adapter lacks.

They are not errors, so that a graph still works after its adapter is replaced.
"""

from torch import Tensor

from ..adapter.curves import parse_custom
from ..adapter.person import Person
from ..adapter.stream_module import AFTER_BLOCK, BESIDE_BLOCK, StreamModule
from ..bases.layers import LayerMap
from ..faces.source_picture import source_pictures
from ..faces.value import Faces
from .family import ALIGNED, FACE, WHOLE
from .recognised import Recognised

_CROPS = "the crops of Detect & Embed Faces, whose frame may differ from the one that it was trained with"
# What a family uses if its faces are not found, by its stream and the picture that it encodes.
_IN_PLACE_OF_ITS_PICTURE = {
    ("image", FACE): "the whole image",
    ("face", ALIGNED): _CROPS,
    ("face", WHOLE): "the pictures in the order of the faces, or the only picture for all of them",
}


def unused_images(parts: dict[str, Recognised], connected: tuple[str, ...]) -> tuple[str, ...]:
    """A warning for the `connected` picture inputs if no stream encodes pictures."""
    if not connected or any(part.family.recipe.picture for part in parts.values()):
        return ()
    names = " and ".join(part.family.name for part in parts.values())
    verb = "is" if len(connected) == 1 else "are"
    return (
        f"{' and '.join(connected)} {verb} connected and {verb} not used: {names} encodes no picture. Disconnect "
        f"{'it' if len(connected) == 1 else 'them'}, or add an image stream with Combine FaceCDM Adapters.",
    )


def unused_faces(parts: dict[str, Recognised], faces: Faces | None) -> tuple[str, ...]:
    """A warning for `faces` if no stream reads a face."""
    if faces is None or any(_reads_faces(part) for part in parts.values()):
        return ()
    names = " and ".join(part.family.name for part in parts.values())
    return (
        f"faces is connected and is not used: {names} reads no faces. Disconnect it, or add a face stream with Combine "
        "FaceCDM Adapters.",
    )


def _reads_faces(part: Recognised) -> bool:
    family = part.family
    return family.stream == "face" or bool(family.recipe.embedding) or family.recipe.picture == FACE


def image_beside_encoded(parts: dict[str, Recognised], image: Tensor | None, encoded: object) -> tuple[str, ...]:
    """A warning for `image` beside clip_vision_output, if no face stream encodes the face's picture."""
    if image is None or encoded is None:
        return ()
    if any(part.family.stream == "face" and part.family.recipe.picture for part in parts.values()):
        return ()
    return ("image is connected and is not used, because clip_vision_output takes its place. Disconnect one of them.",)


def face_not_in_image(part: Recognised, faces: Faces | None, pictures: Tensor | None) -> str:
    """A warning if the family needs each face's picture and the faces are not in `pictures` [B, H, W, 3]; else ""."""
    family = part.family
    instead = _IN_PLACE_OF_ITS_PICTURE.get((family.stream, family.recipe.picture))
    if instead is None or faces is None or pictures is None or source_pictures(faces, pictures) is not None:
        return ""
    size = f"{len(pictures)} picture(s) of {pictures.shape[2]} × {pictures.shape[1]}"
    return (
        f"not all of the {len(faces)} face(s) were found in image ({size}), so {family.name} uses {instead}. "
        "Connect the same picture to image as to Detect & Embed Faces."
    )


def mask_missing(person: Person) -> tuple[str, ...]:
    """A warning if the family was trained with a region per face, and none is given."""
    names = [part.family.name for part in getattr(person.adapter.config, "parts", {}).values() if part.family.boxed]
    if not names or person.mask is not None:
        return ()
    return (
        f"mask is not connected, and {names[0]} was trained with a box for each face: without one the face acts on "
        "the whole picture. Connect a mask over the place of the face, such as one of Person Regions.",
    )


def blocks_without_stream(stream: StreamModule, layer_map: LayerMap, custom: str, input_name: str) -> tuple[str, ...]:
    """A warning for blocks of a DiT that a custom curve, given at the input `input_name`, names and in which the
    stream does not act.
    """
    blocks = parse_custom(custom, input_name)
    unused = sorted(set(blocks) - set(stream.at)) if layer_map.is_dit and isinstance(blocks, dict) else []
    if not unused:
        return ()
    where = "after" if stream.place in (AFTER_BLOCK, BESIDE_BLOCK) else "in"
    return (
        f"{input_name} names block {', '.join(map(str, unused))}, where this adapter does not act. It acts {where} the "
        f"blocks {', '.join(map(str, stream.at))}.",
    )


def options_without_effect(adapter, changed: dict[str, object]) -> tuple[str, ...]:
    """Warnings for settings of FaceCDM Apply Options that the adapter does not have.

    changed  setting → its value, for those that are not at their default
    """
    lacks = {}
    if not getattr(adapter, "loras", {}):
        lacks["lora_strength"] = "contains no LoRA"
    if not any(part.family.structure for part in getattr(adapter.config, "parts", {}).values()):
        lacks["structure"] = "has no tokens of the face's structure"
    if "image" not in adapter.streams:
        lacks["image_curve"] = "has no image stream"
    return tuple(
        f"{name} is {changed[name]} (FaceCDM Apply Options) and has no effect: this adapter {why}"
        for name, why in lacks.items()
        if name in changed
    )


def strengths_without_effect(adapter, strengths: dict[str, float]) -> tuple[str, ...]:
    """Warnings for the strengths (stream → strength) of streams that the adapter lacks, unless they are 1, the default.

    The names of published adapters mislead: IP-Adapter Plus-Face reads an image.
    """
    return tuple(
        f"{stream}_strength is {strength:g} and has no effect: this adapter has no {stream} stream"
        + "".join(f"; its strength is {other}_strength" for other in adapter.streams if other in strengths)
        for stream, strength in strengths.items()
        if strength != 1 and stream not in adapter.streams
    )


def keep_prompt_without_projection(keep_prompt: float) -> tuple[str, ...]:
    """A warning for `keep_prompt` if the projection is none."""
    if not keep_prompt:
        return ()
    return (
        f"keep_prompt is {keep_prompt:g} and has no effect: projection is none (FaceCDM Apply Options), which removes "
        "nothing. Choose another projection.",
    )


def mask_black(mask: Tensor | None, without_effect: str) -> tuple[str, ...]:
    """A warning for an all-black mask; `without_effect` names what then has no effect."""
    if mask is None or mask.any():
        return ()
    return (
        f"mask is black, so {without_effect} has no effect: connect a mask that is white where it is to act, or "
        "disconnect it",
    )


def projection_without_effect(person: Person, projection: str) -> tuple[str, ...]:
    """A warning if a `projection` is chosen and no stream removes anything."""
    if any(person.kappa_of(name) is not None for name in person.adapter.streams if name in person.settings):
        return ()
    return (f"projection is {projection} (FaceCDM Apply Options) and has no effect while keep_prompt is 0: raise it",)


def keep_prompt_without_effect(parts: dict[str, Recognised], shown: set[str], keep_prompt: float) -> tuple[str, ...]:
    """A warning if every stream in use already has κ = 1 because of its family (PuLID)."""
    families = [part.family for stream, part in parts.items() if stream in shown]
    if not keep_prompt or not families or any(family.kappa < 1 for family in families):
        return ()
    return (
        f"keep_prompt is {keep_prompt:g} and has no effect: {families[0].name} already removes all of the text's "
        "part. To follow the prompt more, lower face_strength.",
    )
