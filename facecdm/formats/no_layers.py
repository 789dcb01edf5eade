"""Published projectors without layers in the base model: a ControlNet reads their tokens in place of the text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..adapter.cells import StreamCells
from ..bases import BASES
from ..bases.layers import LayerMap
from ..errors import UnsupportedModel

if TYPE_CHECKING:
    from .read import Published


@dataclass(frozen=True)
class NoLayers:
    """Nothing acts in the base model, which is the DiT with texts as wide as the tokens."""

    def matches(self, state: dict[str, Tensor]) -> bool:
        return not state

    def layer_map(self, published: "Published") -> LayerMap:
        """Raises UnsupportedModel."""
        width = len(published.image_proj["norm_out.weight"])
        bases = [base for base in BASES.values() if base.layer_map.is_dit]
        for base in bases:
            if base.text_width == width:
                return base.layer_map
        raise UnsupportedModel(
            f"{published.path.name} makes tokens for a DiT of text width {width}; "
            f"FaceCDM knows {', '.join(base.name for base in bases)}."
        )

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> nn.Module:
        return StreamCells(layer_map, (), layer_map.context, layer_map.context, 1, torch.float32)
