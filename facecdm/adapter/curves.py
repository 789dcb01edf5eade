"""How strongly each layer takes part, as a curve over the depth of the U-Net or a factor for each of its blocks."""

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

# (number of the block, how many layers it has) in the layer map's order. Blocks are counted as a picture passes them,
# the middle one too: ComfyUI's `transformer_index`.
_SD1 = tuple((number, 1) for number in (*range(6), *range(7, 16), 6))
_SDXL = ((0, 2), (1, 2), (2, 10), (3, 10), (5, 10), (6, 10), (7, 10), (8, 2), (9, 2), (10, 2), (4, 10))
BLOCKS = {"SD1.5": _SD1, "SD2": _SD1, "SDXL": _SDXL}

# Which blocks make a picture's style and which its composition (InstantStyle, Wang et al. 2024, for SDXL; the
# well-known IPAdapter_plus for SD1.5). Blocks that are not named take no part.
_SD1_STYLE = {number: 1.0 for number in (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)}
_SD1_STRONG = {number: 1.0 for number in range(16) if number not in (4, 5)}
_SD1_COMPOSITION = {4: 0.25, 5: 1.0}
PRESETS = {
    "style": {16: _SD1_STYLE, 11: {6: 1.0}},
    "strong style": {16: _SD1_STRONG, 11: {number: 1.0 for number in range(11) if number != 3}},
    "composition": {16: _SD1_COMPOSITION, 11: {3: 1.0}},
    "style and composition": {16: {**_SD1_STYLE, **_SD1_COMPOSITION}, 11: {3: 1.0, 6: 1.0}},
}
NAMES = (*CURVES, *PRESETS, CUSTOM)


def factors_of(name: str, custom: str, layer_map: LayerMap) -> tuple[float, ...]:
    """A factor for each layer, by a name of `NAMES`; `custom` is read for that name alone.

    Raises FaceCDMError: `custom` is no curve, or a preset's blocks are not known for this base.
    """
    if name == CUSTOM:
        points = parse_custom(custom)
        return (
            block_factors(points, layer_map, "custom_curve")
            if isinstance(points, dict)
            else layer_factors(points, layer_map)
        )
    if name in PRESETS:
        return block_factors(PRESETS[name][len(_blocks(layer_map, name))], layer_map, name)
    return layer_factors(CURVES[name], layer_map)


def parse_custom(text: str) -> tuple[float, ...] | dict[int, float]:
    """A curve ("0, 0.5, 1") or factors of blocks ("3:1, 6:0.5"). Raises FaceCDMError."""
    if ":" not in text:
        return parse_curve(text)
    try:
        pairs = [part.split(":") for part in text.replace(";", ",").split(",") if part.strip()]
        blocks = {int(number): float(value) for number, value in pairs}
    except ValueError as error:
        raise FaceCDMError(f"custom_curve {text!r} is no list of blocks; write some such as 3:1, 6:0.5") from error
    if not all(abs(value) < 100 for value in blocks.values()):
        raise FaceCDMError(f"custom_curve {text!r} has a factor that is not between -100 and 100")
    return blocks


def parse_curve(text: str) -> tuple[float, ...]:
    """ "0, 0.5, 1" → (0.0, 0.5, 1.0). Raises FaceCDMError where that is no list of numbers."""
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


def block_factors(blocks: dict[int, float], layer_map: LayerMap, what: str) -> tuple[float, ...]:
    """Each block's factor at each of its layers, in the layer map's order; 0 where a block is not named."""
    known = _blocks(layer_map, what)
    missing = set(blocks) - {number for number, _ in known}
    if missing:
        raise FaceCDMError(f"{what} names block {min(missing)}; {layer_map.base} has the blocks 0 to {len(known) - 1}")
    return tuple(blocks.get(number, 0.0) for number, count in known for _ in range(count))


def _blocks(layer_map: LayerMap, what: str) -> tuple[tuple[int, int], ...]:
    if layer_map.base not in BLOCKS:
        raise FaceCDMError(
            f"{what} goes by the blocks of {', '.join(BLOCKS)}, and this adapter is for "
            f"{layer_map.base}: choose another curve"
        )
    return BLOCKS[layer_map.base]
