"""Published residual cells of DiTs: `{number}.{norm1,norm2,to_q,to_kv,to_out}`, numbered in their blocks' order."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapter.cells import StreamCells
from ..adapter.stream_module import StreamModule
from ..bases.base import Base
from ..bases.layers import LayerMap
from ..errors import BadFile
from .dit_bases import dit_layer_map

if TYPE_CHECKING:
    from .read import Published

_CELL = re.compile(r"(\d{1,4})\.to_kv\.weight")
# Keys in the file, and the parts of a StreamCells that they belong to.
_PARTS = {
    "norm1.weight": "keys.{}.norm.weight",
    "norm1.bias": "keys.{}.norm.bias",
    "to_kv.weight": "keys.{}.to_kv.weight",
    "norm2.weight": "queries.{}.norm.weight",
    "norm2.bias": "queries.{}.norm.bias",
    "to_q.weight": "queries.{}.to_q.weight",
    "to_out.weight": "queries.{}.to_out.weight",
}


@dataclass(frozen=True)
class CellLayers:
    """A family's cells; a file does not say where they are.

    head    features of an attention head
    double  there is a cell after double block 0, double, 2·double …
    single  there is a cell after single block 0, single, 2·single …
    """

    head: int
    double: int = 1
    single: int = 1
    for_controlnets = False

    def matches(self, state: dict[str, Tensor]) -> bool:
        return any(_CELL.fullmatch(key) for key in state)

    def at(self, layer_map: LayerMap) -> tuple[int, ...]:
        """The blocks that have a cell, as indices in the layer map."""
        found = []
        for part, every in (("double", self.double), ("single", self.single)):
            found += [index for index, layer in enumerate(layer_map.layers) if layer.part == part][::every]
        return tuple(found)

    def layer_map(self, published: "Published") -> LayerMap:
        """The base model whose blocks have the file's cells. Raises UnsupportedModel."""
        state = published.ip_adapter
        count = sum(_CELL.fullmatch(key) is not None for key in state)
        width = state["0.to_q.weight"].shape[1]

        def fits(base: Base) -> bool:
            return base.layer_map.layers[0].width == width and len(self.at(base.layer_map)) == count

        return dit_layer_map(published, fits, f"a DiT of width {width} with {count} cells")

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> StreamModule:
        """The file's cells with gates of 1; shares the file's tensors. Raises BadFile for a wrong or missing tensor."""
        state, at = published.ip_adapter, self.at(layer_map)
        inner, context = state["0.to_q.weight"].shape[0], state["0.to_kv.weight"].shape[1]
        with torch.device("meta"):
            stream = StreamCells(layer_map, at, context, inner, inner // self.head, state["0.to_q.weight"].dtype)
        weights = {"gate.knots": torch.ones(1, layer_map.heads), "kappa": torch.tensor(kappa)}
        for number in range(len(at)):
            for theirs, ours in _PARTS.items():
                weights[ours.format(number)] = state[f"{number}.{theirs}"]
        if len(state) != len(at) * len(_PARTS):
            known = {f"{number}.{key}" for number in range(len(at)) for key in _PARTS}
            raise BadFile(f"{published.path}: {min(state.keys() - known)} belongs to no cell. Get the file again.")
        stream.load_state_dict(weights, assign=True)
        return stream
