"""Checks of input values that ComfyUI's server lets through."""

import functools
import math
from inspect import signature

from comfy_api.latest import io

from ..facecdm.errors import FaceCDMError


def checked(execute):
    """Decorate `execute`: refuse numbers that are NaN, infinite or out of range, and unknown choices.

    The server checks unlinked numbers only, lets NaN pass, and in ComfyUI 0.3.75 does not check choices. It repeats
    the message of `validate_inputs` for each input that this function takes. `validate_inputs` therefore takes one
    input at most: the node's file, or a text. A choice that it takes is not checked again. Raises FaceCDMError.
    """

    @functools.wraps(execute)
    def run(cls, **inputs):
        for entry in cls.define_schema().inputs:
            value = inputs.get(entry.id)
            if isinstance(entry, io.Float.Input | io.Int.Input) and value is not None:
                _check_number(entry, value)
            elif isinstance(entry, io.Combo.Input) and entry.id not in signature(cls.validate_inputs).parameters:
                _check_choice(entry, value)
        return execute(cls, **inputs)

    return run


def check_pixels(**pictures) -> None:
    """Raise FaceCDMError for a picture or mask (input name → tensor or None) without pixels."""
    for name, value in pictures.items():
        if value is not None and (value.ndim < 2 or not value.numel()):
            size = " × ".join(map(str, value.shape))
            raise FaceCDMError(f"{name} has no pixels (its size is {size}): check the node that it comes from.")


def _check_choice(entry, value) -> None:
    if value is not None and value not in entry.options:
        raise FaceCDMError(f"{entry.id} must be one of {', '.join(entry.options)}; got {str(value)[:60]!r}.")


def _check_number(entry, value) -> None:
    low = -math.inf if entry.min is None else entry.min
    high = math.inf if entry.max is None else entry.max
    if not isinstance(value, int | float) or not low <= value <= high or value in (math.inf, -math.inf):
        raise FaceCDMError(f"{entry.id} must be a number from {low:g} to {high:g}; got {str(value)[:60]}.")
