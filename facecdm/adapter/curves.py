"""Factors per layer: a curve over the depth of the base model, or one factor per block."""

from ..bases import BASES, Base, base_of, name_of
from ..bases.layers import LayerMap
from ..errors import FaceCDMError

# Evenly spaced values from the first block to the last, interpolated linearly.
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

# Factors of the blocks for style or composition; available if the base model's entry defines them.
PRESETS = ("style", "strong style", "composition", "style and composition")
NAMES = (*CURVES, *PRESETS, CUSTOM)
CUSTOM_INPUT = "custom_curve"  # Apply FaceCDM's input for a custom curve


def factors_of(name: str, custom: str, layer_map: LayerMap, input_name: str = CUSTOM_INPUT) -> tuple[float, ...]:
    """One factor per layer for a `name` in `NAMES`; `custom` is read only if the name is "custom".

    `input_name` is that of `custom`, for errors. Raises FaceCDMError if `custom` is not a curve or the
    base model has no such preset.
    """
    if name == CUSTOM:
        points = parse_custom(custom, input_name)
        return (
            block_factors(points, layer_map, input_name)
            if isinstance(points, dict)
            else layer_factors(points, layer_map)
        )
    if name in PRESETS:
        return block_factors(_base_with_blocks(layer_map, name).presets[name], layer_map, name)
    return layer_factors(CURVES[name], layer_map)


def parse_custom(text: str, input_name: str = CUSTOM_INPUT) -> tuple[float, ...] | dict[int, float]:
    """Parse a curve ("0, 0.5, 1") or factors of blocks ("3:1, 6:0.5"). Raises FaceCDMError."""
    if ":" not in text:
        return parse_curve(text, input_name)
    try:
        pairs = [part.split(":") for part in text.replace(";", ",").split(",") if part.strip()]
        blocks = {int(number): float(value) for number, value in pairs}
    except ValueError as error:
        raise FaceCDMError(f"{input_name} {text!r} is not a list of blocks; write one such as 3:1, 6:0.5") from error
    if not all(abs(value) < 100 for value in blocks.values()):
        raise FaceCDMError(f"{input_name} {text!r} has a factor that is not between -100 and 100")
    return blocks


def parse_curve(text: str, input_name: str = CUSTOM_INPUT) -> tuple[float, ...]:
    """ "0, 0.5, 1" → (0.0, 0.5, 1.0). Raises FaceCDMError."""
    try:
        values = tuple(float(part) for part in text.replace(";", ",").split(",") if part.strip())
    except ValueError as error:
        raise FaceCDMError(f"{input_name} {text!r} is not a list of numbers; write one such as 0, 0.5, 1") from error
    if not values or not all(abs(value) < 100 for value in values):
        raise FaceCDMError(f"{input_name} {text!r} needs at least one number, each between -100 and 100")
    return values


def layer_factors(curve: tuple[float, ...], layer_map: LayerMap) -> tuple[float, ...]:
    """The curve's value at each layer, in the layer map's order."""
    factors = [1.0] * len(layer_map.layers)
    for position, index in enumerate(layer_map.by_depth):
        at = position / max(len(factors) - 1, 1) * (len(curve) - 1)
        low = min(int(at), max(len(curve) - 2, 0))
        high = min(low + 1, len(curve) - 1)
        factors[index] = curve[low] + (at - low) * (curve[high] - curve[low])
    return tuple(factors)


def block_factors(blocks: dict[int, float], layer_map: LayerMap, what: str) -> tuple[float, ...]:
    """Factors per layer from factors per block, in the layer map's order; 0 for a block that is not named.

    Raises FaceCDMError if a block does not exist or the base's blocks are unknown; the message begins with `what`.
    """
    known = _base_with_blocks(layer_map, what).blocks
    missing = set(blocks) - {number for number, _ in known}
    if missing:
        raise FaceCDMError(
            f"{what} names block {min(missing)}; {name_of(layer_map)} has the blocks 0 to {len(known) - 1}"
        )
    return tuple(blocks.get(number, 0.0) for number, count in known for _ in range(count))


def _base_with_blocks(layer_map: LayerMap, what: str) -> Base:
    base = base_of(layer_map)
    known = [one for one in BASES.values() if (what in one.presets if what in PRESETS else one.blocks)]
    if base not in known:
        names = ", ".join(one.name for one in known)
        needs = f"is a preset of {names}" if what in PRESETS else f"needs the block numbers of {names}"
        raise FaceCDMError(f"{what} {needs}, and this adapter is for {name_of(layer_map)}: choose another curve")
    return base
