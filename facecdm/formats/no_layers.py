"""Published projectors without layers in the base model: a ControlNet reads their tokens in place of the text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..adapter.stream_module import StreamModule
from ..bases.base import Base
from ..bases.layers import LayerMap
from .dit_bases import dit_layer_map

if TYPE_CHECKING:
    from .read import Published


@dataclass(frozen=True)
class NoLayers:
    """Nothing acts in the base model: the DiT with single blocks whose text is as wide as the tokens."""

    for_controlnets = True

    def matches(self, state: dict[str, Tensor]) -> bool:
        return not state

    def layer_map(self, published: "Published") -> LayerMap:
        """Raises UnsupportedModel."""
        width = len(published.image_proj["norm_out.weight"])

        def fits(base: Base) -> bool:
            return base.text_width == width and any(layer.part == "single" for layer in base.layer_map.layers)

        return dit_layer_map(published, fits, f"a DiT with single blocks and text width {width}")

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> StreamModule:
        stream = StreamModule(layer_map, at=())
        stream.add_gates(layer_map)
        return stream
