"""A MODEL and its conditionings as a window of the picture sees them."""

from dataclasses import replace

from ..faces.window import Window
from .comfy_run import PEOPLE


def model_in(model, window: Window):
    """A copy of MODEL whose people have the window's part of their masks."""
    people = model.model_options.get("transformer_options", {}).get(PEOPLE)
    if not people:
        return model
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    options[PEOPLE] = tuple(person if person.mask is None else replace(person, mask=window.cut(person.mask))
                            for person in people)
    return model


def conditioning_in(conditioning: list, window: Window) -> list:
    """CONDITIONING for a window: masks and ControlNets' pictures are cut; those of places outside are left out.

    An area becomes the part of it that the window shows. Where nothing is left, the whole conditioning stays, lest
    there be no words at all.
    """
    seen = [own for entry in conditioning if (own := _entry_in(*entry, window)) is not None]
    return seen or [[text, {key: value for key, value in options.items() if key not in ("mask", "area")}]
                    for text, options in conditioning]


def _entry_in(text, options: dict, window: Window) -> list | None:
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
        own["control"] = control_in(own["control"], window)
    return [text, own]


def _area_in(area: tuple, window: Window) -> tuple | None:
    """("percentage", h, w, y, x) of the window, from an area of the picture in eighths of pixels or in parts."""
    parts = (window.height, window.width) * 2
    height, width, y, x = area[1:] if area[0] == "percentage" else (8 * a / p for a, p in zip(area, parts))
    spans = []
    for start, length, low, high in ((y, height, window.y0 / window.height, window.y1 / window.height),
                                     (x, width, window.x0 / window.width, window.x1 / window.width)):
        first, last = max(start, low), min(start + length, high)
        if last <= first:
            return None
        spans.append(((last - first) / (high - low), (first - low) / (high - low)))
    return ("percentage", spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def control_in(control, window: Window):
    """A copy of a chain of ControlNets, each with the window's part of its picture."""
    own = control.copy()
    for net in (own, getattr(own, "net", None)):  # FaceControl holds another net
        if getattr(net, "cond_hint_original", None) is not None:
            net.cond_hint_original = window.cut(net.cond_hint_original)
    if getattr(own, "mask", None) is not None:
        own.mask = window.cut(own.mask)
    if control.previous_controlnet is not None:
        own.set_previous_controlnet(control_in(control.previous_controlnet, window))
    return own
