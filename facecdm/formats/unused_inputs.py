"""What is connected or set and changes nothing: told, not refused, so that a graph works with another file, too."""

from torch import Tensor

from ..adapter.person import Person
from ..faces.source_picture import source_pictures
from ..faces.value import Faces
from .families import ALIGNED, FACE
from .recognise import Recognised


def unused_images(parts: dict[str, Recognised], connected: tuple[str, ...]) -> tuple[str, ...]:
    """For the names of `connected` inputs that show pictures, where no stream looks at any."""
    if not connected or any(part.family.picture for part in parts.values()):
        return ()
    names = " and ".join(part.family.name for part in parts.values())
    return (
        f"{' and '.join(connected)} {'is' if len(connected) == 1 else 'are'} connected, and {names} looks at no "
        "picture: nothing of it is heard. Disconnect it, or add an image stream with Combine Adapters.",
    )


def face_not_in_image(part: Recognised, faces: Faces | None, pictures: Tensor | None) -> str:
    """What a family that looks at faces in their pictures [B, H, W, 3] sees where these are not those; else ""."""
    family = part.family
    if family.picture not in (FACE, ALIGNED) or faces is None or pictures is None:
        return ""
    if source_pictures(faces, pictures) is not None:
        return ""
    instead = (
        "the whole image"
        if family.picture == FACE
        else "the crops that Detect & Embed Faces made, whose frame may be another than it was trained with"
    )
    size = f"{len(pictures)} picture(s) of {pictures.shape[2]} × {pictures.shape[1]}"
    return (
        f"not all of the {len(faces)} face(s) were found in image ({size}), so {family.name} looks at {instead}. "
        "Connect the same picture to image as to Detect & Embed Faces."
    )


def pose_ignored(person: Person) -> tuple[str, ...]:
    """Where it is said where the face is to be, and the adapter cannot hear it."""
    if person.keypoints is None or person.has_location:
        return ()
    return (
        "pose is connected, and this adapter does not listen to it: only FaceCDM's own do whose face tokens began "
        "as places (docs/training.md)",
    )


def keep_prompt_without_effect(parts: dict[str, Recognised], shown: set[str], keep_prompt: float) -> tuple[str, ...]:
    """Where every stream that is shown has taken out what the text says before anybody asked (κ of 1: PuLID)."""
    families = [part.family for stream, part in parts.items() if stream in shown]
    if not keep_prompt or not families or any(family.kappa < 1 for family in families):
        return ()
    return (
        f"keep_prompt is {keep_prompt:g} and changes nothing: {families[0].name} takes out all that the text says "
        "already. For more of the prompt lower face_strength.",
    )
