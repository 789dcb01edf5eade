"""Negative images and noise: the stream that uses them, and errors if none does."""

from ..errors import Mismatch
from .family import ALIGNED, BOX, WHOLE
from .recognised import Recognised

USERS = (
    "Adapters that encode pictures use it: the IP-Adapter families, FaceID Plus, PlusV2, ConsistentID and UniPortrait"
)
NOISY = "Published adapters with a face stream use it: the FaceID families, ConsistentID, UniPortrait, InstantID, PuLID"


def stream_of_negative_image(parts: dict[str, Recognised] | None, pictures: bool) -> str:
    """The stream in which a negative image replaces the empty picture.

    This is the image stream if there is one and `pictures` are connected, else the face stream of a family that encodes
    pictures in the same way, such as FaceID Plus (cubiq/ComfyUI_IPAdapter_plus).

    `parts` is None for FaceCDM's own adapters. Raises Mismatch if no stream would use it.
    """
    if parts is None:
        raise Mismatch(
            "negative_image is connected (FaceCDM Apply Options), and FaceCDM's own adapters use no picture for the "
            f"negative prompt: disconnect it. {USERS}."
        )
    if "image" in parts and parts["image"].family.recipe.picture == BOX:
        raise Mismatch(
            f"negative_image is connected (FaceCDM Apply Options), and {parts['image'].family.name} has nothing for "
            f"the negative prompt: disconnect it. {USERS}."
        )
    if "image" in parts and (pictures or "face" not in parts):
        return "image"
    family = parts["face"].family
    if family.recipe.picture in (ALIGNED, WHOLE):
        return "face"
    if "image" in parts:
        raise Mismatch(
            f"negative_image is connected (FaceCDM Apply Options), and the image stream ({parts['image'].family.name}) "
            "has no image to move towards: connect image as well, or disconnect negative_image"
        )
    raise Mismatch(
        f"negative_image is connected (FaceCDM Apply Options), and {family.name} uses an empty face for the negative "
        f"prompt, not a picture: disconnect it, or add an image stream with Combine FaceCDM Adapters. {USERS}."
    )


def check_noise(parts: dict[str, Recognised] | None, amount: float) -> None:
    """Raises Mismatch if the negative prompt has no empty face to add noise to."""
    if parts is None:
        raise Mismatch(
            f"noise is {amount:g} (FaceCDM Apply Options), and FaceCDM's own adapters use no face for the negative "
            f"prompt, not even an empty one: set it to 0. {NOISY}."
        )
    if "face" not in parts:
        raise Mismatch(
            f"noise is {amount:g} (FaceCDM Apply Options), and {parts['image'].family.name} has no face stream: set "
            f"it to 0; for a picture, connect one with noise to negative_image. {NOISY}."
        )
    if not parts["face"].family.recipe.empty:
        raise Mismatch(
            f"noise is {amount:g} (FaceCDM Apply Options), and {parts['face'].family.name} has nothing for the "
            f"negative prompt: set it to 0. {NOISY}."
        )
