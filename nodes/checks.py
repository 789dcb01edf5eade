"""Checks of input values that ComfyUI's server lets through."""

import functools
import math
from collections.abc import Callable
from inspect import signature

from comfy_api.latest import io
from torch import Tensor

from ..facecdm.errors import FaceCDMError


def _is_conditioning(value) -> bool:
    return isinstance(value, list) and all(map(_is_prompt, value))


def _is_prompt(entry) -> bool:
    pair = isinstance(entry, list | tuple) and len(entry) == 2
    return pair and isinstance(entry[0], Tensor) and isinstance(entry[1], dict)


def _is_lora(value) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


WRITTEN = (str, int, float, dict, list)  # what an API client can write in place of a link
# Sockets whose values are of these types, with what tells a valid one.
WRITTEN_SOCKETS = {
    "CONDITIONING": _is_conditioning,
    "LORA_MODEL": _is_lora,
    "POSE_KEYPOINT": lambda value: isinstance(value, list | dict),
    "FACECDM_STAGE_SETTINGS": lambda value: isinstance(value, dict),
}


def checked(execute):
    """Decorate `execute`: refuse numbers that are NaN, infinite or out of range, unknown choices, and sockets that
    hold no node's output.

    The server checks unlinked numbers only, lets NaN pass, and in ComfyUI 0.3.75 does not check choices. It repeats
    the message of `validate_inputs` for each input that this function takes. `validate_inputs` therefore takes one
    input at most: the node's file, or a text. Of a choice that it takes, or that the node names in OWN_CHECKS because
    `execute` has a better message, only the type is checked here. Raises FaceCDMError.
    """

    @functools.wraps(execute)
    def run(cls, **inputs):
        entries = [entry for entry in cls.define_schema().inputs if entry.id in inputs]
        for entry in entries:
            value = inputs[entry.id]
            if isinstance(entry, io.Float.Input | io.Int.Input):
                _check_number(entry, value)
            elif isinstance(entry, io.Combo.Input):
                has_own_check = entry.id in (
                    *signature(cls.validate_inputs).parameters,
                    *getattr(cls, "OWN_CHECKS", ()),
                )
                _check_text(entry.id, value) if has_own_check else _check_choice(entry, value)
        for entry in entries:
            if not isinstance(entry, io.WidgetInput):
                _check_socket(entry, inputs[entry.id])
        return execute(cls, **inputs)

    return run


def validity(name: str, value, check: Callable[[str], object]) -> bool | str:
    """What `validate_inputs` returns for its input `name`: True, or the message of `check`'s FaceCDMError.

    None is a linked input, whose value the server does not know yet.
    """
    try:
        if value is not None:
            _check_text(name, value)
            check(value)
    except FaceCDMError as error:
        return str(error)
    return True


def check_pixels(**pictures) -> None:
    """Raise FaceCDMError for pictures or masks (input name → tensor or None) without pixels, or with NaN, infinity."""
    for name, value in pictures.items():
        if value is not None and (value.ndim < 2 or not value.numel()):
            size = " × ".join(map(str, value.shape))
            raise FaceCDMError(f"{name} has no pixels (its size is {size}): check the node that it comes from.")
        if value is not None and value.is_floating_point():
            _check_finite(name, value)


def _check_finite(name: str, value: Tensor) -> None:
    batch = value if value.ndim > 2 else value[None]
    wrong = next((number for number, one in enumerate(batch) if not one.isfinite().all()), None)
    if wrong is not None:
        where = f" in picture {wrong} (counted from 0)" if len(batch) > 1 else ""
        raise FaceCDMError(f"{name} holds NaN or infinity{where}: check the node that it comes from.")


def _check_text(name: str, value) -> None:
    if not isinstance(value, str):
        raise FaceCDMError(f"{name} must be a text; got {str(value)[:60]}.")


def _check_socket(entry, value) -> None:
    kind = entry.get_io_type()
    missing = value is None and not entry.optional
    if missing or isinstance(value, WRITTEN) and (kind not in WRITTEN_SOCKETS or not WRITTEN_SOCKETS[kind](value)):
        raise FaceCDMError(f"{entry.id} must be connected to a node that gives {kind}; got {str(value)[:60]!r}.")


def _check_choice(entry, value) -> None:
    if value not in entry.options:
        raise FaceCDMError(f"{entry.id} must be one of {', '.join(entry.options)}; got {str(value)[:60]!r}.")


def _check_number(entry, value) -> None:
    low = -math.inf if entry.min is None else entry.min
    high = math.inf if entry.max is None else entry.max
    if not isinstance(value, int | float) or not low <= value <= high or value in (math.inf, -math.inf):
        raise FaceCDMError(f"{entry.id} must be a number from {low:g} to {high:g}; got {str(value)[:60]}.")
