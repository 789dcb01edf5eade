"""Whether an adapter can be applied to a base model."""

from torch import nn

from ..bases import name_of
from ..bases.layers import LayerMap
from ..errors import Mismatch


def check_fit(adapter: nn.Module, layer_map: LayerMap, model: str = "the MODEL") -> None:
    """Raise Mismatch if `adapter` was made for another base than the `model` with this layer map, or acts in none."""
    wanted = adapter.config.layer_map
    if layer_map != wanted:
        published = getattr(adapter.config, "counterpart", lambda base: "")(name_of(layer_map))
        raise Mismatch(
            f"this adapter was made for {name_of(wanted)}, and {model} is {name_of(layer_map)}; load an adapter "
            f"for that base{f' ({published})' if published else ''}, or connect {model} that this one was "
            "made for"
        )
    if not any(stream.at for stream in adapter.streams.values()):
        names = " and ".join(part.family.name for part in adapter.config.parts.values())
        raise Mismatch(
            f"{names} acts through its ControlNet alone: connect the adapter to Apply FaceCDM to ControlNet, not here"
        )
