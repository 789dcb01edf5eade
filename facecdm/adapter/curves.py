"""How strongly each layer takes part, as a curve over the depth of the U-Net."""

from ..errors import FaceCDMError
from .layers import LayerMap

# Values at even distances from the first input block to the last output block, joined by straight lines.
CURVES = {
    "flat": (1.0,),
    "ease in": (0.0, 1.0),
    "ease out": (1.0, 0.0),
    "strong middle": (0.0, 1.0, 0.0),
    "weak middle": (1.0, 0.0, 1.0),
    "weak input": (0.2, 1.0, 1.0),
    "weak output": (1.0, 1.0, 0.2),
}
CUSTOM = "custom"


def parse_curve(text: str) -> tuple[float, ...]:
    """"0, 0.5, 1" → (0.0, 0.5, 1.0). Raises FaceCDMError where that is no list of numbers."""
    try:
        values = tuple(float(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError as error:
        raise FaceCDMError(f"custom_curve {text!r} is no list of numbers; write some such as 0, 0.5, 1") from error
    if not values or not all(abs(value) < 100 for value in values):
        raise FaceCDMError(f"custom_curve {text!r} needs at least one number, each between -100 and 100")
    return values


def layer_factors(curve: tuple[float, ...], layer_map: LayerMap) -> tuple[float, ...]:
    """The curve's value at each layer, in the layer map's order."""
    factors = [1.0] * len(layer_map.layers)
    for place, index in enumerate(layer_map.by_depth):
        at = place / max(len(factors) - 1, 1) * (len(curve) - 1)
        low = min(int(at), max(len(curve) - 2, 0))
        high = min(low + 1, len(curve) - 1)
        factors[index] = curve[low] + (at - low) * (curve[high] - curve[low])
    return tuple(factors)
