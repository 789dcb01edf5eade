"""Crop a MODEL's people and its conditionings to a window of the picture."""

from dataclasses import replace

from torch import Tensor

from ....adapter.person import Person
from ....faces.window import STEP, Window
from .chunks import IMAGES
from .run import PEOPLE

LATENTS = ("concat_latent_image", "concat_mask")  # of inpainting and editing models


def model_in(model, window: Window, picture: int = 0, face: Tensor | None = None):
    """A copy of MODEL for a window of the `picture`-th picture of the batch.

    Masks and face locations of its people are cropped to the window. If references are per picture, this
    picture's reference is used.
    face: key points [5, 2] of the face in the window, in pixels of the picture; they replace all face locations.
    """
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    options[IMAGES] = (picture,)
    if PEOPLE in options:
        options[PEOPLE] = tuple(_person_in(person, window, face) for person in options[PEOPLE])
    return model


def _person_in(person: Person, window: Window, face: Tensor | None) -> Person:
    if person.mask is not None:
        person = replace(person, mask=window.cut(person.mask))
    if face is not None:
        return replace(person, keypoints=window.relative(face[None]), aspects=None)
    if person.keypoints is not None:
        size = person.keypoints.new_tensor([window.width, window.height])
        whole = person.keypoints_in(window.height, window.width) * size
        person = replace(person, keypoints=window.relative(whole), aspects=None)
    return person


def conditioning_in(conditioning: list, window: Window, picture: int = 0) -> list:
    """CONDITIONING for a window of the `picture`-th picture of the batch.

    Masks, areas, GLIGEN boxes, inpainting latents and control images are cropped to the window. An entry whose mask or
    area is outside is left out. If none remains, all stay without mask and area, since sampling needs a prompt.
    """
    inside = [(text, own) for text, options in conditioning if (own := _regional(options, window)) is not None]
    if not inside:
        regional = ("mask", "area")
        inside = [(text, {k: v for k, v in options.items() if k not in regional}) for text, options in conditioning]
    return [[text, _spatial(options, window, picture)] for text, options in inside]


def _regional(options: dict, window: Window) -> dict | None:
    """The options with mask and area cropped to the window; None if one of them is outside."""
    own = dict(options)
    if "mask" in own:
        own["mask"] = window.cut(own["mask"])
        if not own["mask"].any():
            return None
    if "area" in own:
        own["area"] = _area_in(own["area"], window)
        if own["area"] is None:
            return None
    return own


def _spatial(options: dict, window: Window, picture: int) -> dict:
    """The options with their other spatial values cropped to the window."""
    own = dict(options)
    for key in LATENTS:
        if own.get(key) is not None:
            turn = picture % len(own[key])
            own[key] = window.resampled(own[key][turn : turn + 1], tuple(side // STEP for side in window.size))
    if own.get("control") is not None:
        own["control"] = control_in(own["control"], window, picture)
    if "gligen" in own and own["gligen"][0] == "position":
        kind, model, boxes = own["gligen"]
        own["gligen"] = (kind, model, [cut for box in boxes if (cut := _gligen_box_in(box, window)) is not None])
        if not own["gligen"][2]:
            del own["gligen"]
    return own


def _area_in(area: tuple, window: Window) -> tuple | None:
    """Area of the picture in latents or shares → ("percentage", h, w, y, x) in the window; None if outside."""
    parts = (window.height, window.width) * 2
    box = area[1:] if area[0] == "percentage" else tuple(STEP * a / p for a, p in zip(area, parts))
    cut = _box_in(box, window)
    return None if cut is None else ("percentage", *cut)


def _gligen_box_in(box: tuple, window: Window) -> tuple | None:
    """(embedding, h, w, y, x) in latents of the picture → in latents of the window; None if outside."""
    embedding, *sides = box
    cut = _box_in(tuple(STEP * side / part for side, part in zip(sides, (window.height, window.width) * 2)), window)
    return None if cut is None else (embedding, *(c * side / STEP for c, side in zip(cut, window.size * 2)))


def _box_in(box: tuple, window: Window) -> tuple[float, float, float, float] | None:
    """(h, w, y, x) in shares of the picture → its part in the window, in shares of the window; None if outside."""
    height, width, y, x = box
    spans = []
    for start, length, low, high in (
        (y, height, window.y0 / window.height, window.y1 / window.height),
        (x, width, window.x0 / window.width, window.x1 / window.width),
    ):
        first, last = max(start, low), min(start + length, high)
        if last <= first:
            return None
        spans.append(((last - first) / (high - low), (first - low) / (high - low)))
    (cut_height, cut_y), (cut_width, cut_x) = spans
    return cut_height, cut_width, cut_y, cut_x


def control_in(control, window: Window, picture: int = 0):
    """A copy of a chain of ControlNets with their control images cropped to the window.

    The `picture`-th of several control images is used, counted cyclically as in core.
    """
    own = control.copy()
    for net in (own, getattr(own, "net", None)):  # FaceControl holds another net
        if getattr(net, "cond_hint_original", None) is not None:
            turn = picture % len(net.cond_hint_original)
            net.cond_hint_original = window.cut(net.cond_hint_original[turn : turn + 1])
    if getattr(own, "mask", None) is not None:
        own.mask = window.cut(own.mask)
    if control.previous_controlnet is not None:
        own.set_previous_controlnet(control_in(control.previous_controlnet, window, picture))
    return own
