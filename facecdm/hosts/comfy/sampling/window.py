"""A MODEL and its conditionings as a window of the picture sees them."""

from dataclasses import replace

from torch import Tensor

from ....adapter.person import Person
from ....faces.window import Window
from .run import PEOPLE, PICTURES


def model_in(model, window: Window, picture: int = 0, face: Tensor | None = None):
    """A copy of MODEL whose people have the window's part of their masks and places, and their reference for that
    `picture` of the batch. The key points [5, 2] of a `face` that is there, in the picture's pixels, say where it is.
    """
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    options[PICTURES] = (picture,)
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
    """CONDITIONING for a window: masks and ControlNets' pictures are cut; those of places outside are left out.

    Of a ControlNet's pictures it is that of the batch's `picture`. An area becomes the part of it that the window
    shows. Where nothing is left, the whole conditioning stays, lest there be no words at all.
    """
    seen = [own for entry in conditioning if (own := _entry_in(*entry, window, picture)) is not None]
    return seen or [
        [text, {key: value for key, value in options.items() if key not in ("mask", "area")}]
        for text, options in conditioning
    ]


def _entry_in(text, options: dict, window: Window, picture: int) -> list | None:
    own = dict(options)
    if "mask" in own:
        own["mask"] = window.cut(own["mask"])
        if not own["mask"].any():
            return None
    if "area" in own:
        area = _area_in(own["area"], window)
        if area is None:
            return None
        own["area"] = area
    if own.get("control") is not None:
        own["control"] = control_in(own["control"], window, picture)
    return [text, own]


def _area_in(area: tuple, window: Window) -> tuple | None:
    """("percentage", h, w, y, x) of the window, from an area of the picture in eighths of pixels or in parts."""
    parts = (window.height, window.width) * 2
    height, width, y, x = area[1:] if area[0] == "percentage" else (8 * a / p for a, p in zip(area, parts))
    spans = []
    for start, length, low, high in (
        (y, height, window.y0 / window.height, window.y1 / window.height),
        (x, width, window.x0 / window.width, window.x1 / window.width),
    ):
        first, last = max(start, low), min(start + length, high)
        if last <= first:
            return None
        spans.append(((last - first) / (high - low), (first - low) / (high - low)))
    return ("percentage", spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def control_in(control, window: Window, picture: int = 0):
    """A copy of a chain of ControlNets, each with the window's part of its picture; of several they take turns, as core
    has it.
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
