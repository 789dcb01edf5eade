"""What may stand before the negative prompt in place of nobody: which stream uses it, and why another does not."""

from ..errors import Mismatch
from .families import ALIGNED
from .recognise import Recognised

USERS = "Adapters that look at pictures use it: IP-Adapter and its kin, FaceID Plus and PlusV2"
NOISY = "Published adapters that show a face use it: FaceID and its kin, InstantID, PuLID"


def stream_of_negative_image(parts: dict[str, Recognised] | None, pictures: bool) -> str:
    """The stream whose look at no picture a negative image replaces: the image's, where there is one and `pictures` are
    connected; else that of FaceID Plus, whose look at the face is the same look (cubiq/ComfyUI_IPAdapter_plus).

    `parts` are None for FaceCDM's own adapters. Raises Mismatch where no stream would use it.
    """
    if parts is None:
        raise Mismatch(
            "negative_image is connected (Apply Options), and FaceCDM's own adapters show the negative "
            f"prompt no picture: disconnect it. {USERS}."
        )
    if "image" in parts and (pictures or "face" not in parts):
        return "image"
    family = parts["face"].family
    if family.picture == ALIGNED:
        return "face"
    if "image" in parts:
        raise Mismatch(
            f"negative_image is connected (Apply Options), and the image stream "
            f"({parts['image'].family.name}) shows no picture that it could stand against: connect image, "
            "too, or disconnect negative_image"
        )
    raise Mismatch(
        f"negative_image is connected (Apply Options), and {family.name} shows the negative prompt an empty "
        f"face, not a picture: disconnect it, or add an image stream with Combine Adapters. {USERS}."
    )


def check_noise(parts: dict[str, Recognised] | None, amount: float) -> None:
    """Raises Mismatch where there is no empty face that noise could be in."""
    if parts is None:
        raise Mismatch(
            f"noise is {amount:g} (Apply Options), and FaceCDM's own adapters show the negative prompt "
            f"nobody, not even an empty face: set it to 0. {NOISY}."
        )
    if "face" not in parts:
        raise Mismatch(
            f"noise is {amount:g} (Apply Options), and {parts['image'].family.name} shows no face: set "
            f"it to 0; for a picture, connect one with noise to negative_image. {NOISY}."
        )
