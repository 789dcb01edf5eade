"""Published keys and values for joint blocks, with norms: `{number}.{norm_ip.linear,to_k_ip,to_v_ip,norm_q,…}`."""

from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapter.joint import JointLayer, JointLayers, TimedKeysValues
from ..bases.base import Base
from ..bases.layers import LayerMap
from ..tensor_file import count_numbered
from .dit_bases import dit_layer_map
from .time_resampler import TimeResampler

if TYPE_CHECKING:
    from .read import Published

# Keys in the file, and the parts of a JointLayer that they belong to.
_PARTS = {
    "norm_ip.linear.weight": "norm.weight",
    "norm_ip.linear.bias": "norm.bias",
    "to_k_ip.weight": "to_k.weight",
    "to_v_ip.weight": "to_v.weight",
    "norm_q.weight": "norm_q",
    "norm_k.weight": "norm_k",
    "norm_ip_k.weight": "norm_own_k",
}


@dataclass(frozen=True)
class JointKeys:
    """Keys and values of every joint block, and the resampler that makes their tokens at every step."""

    for_controlnets = False

    def matches(self, state: dict[str, Tensor]) -> bool:
        return "0.norm_ip.linear.weight" in state

    def layer_map(self, published: "Published") -> LayerMap:
        """The base model whose blocks have the file's keys and values. Raises UnsupportedModel."""
        count, width = count_numbered(published.ip_adapter, ""), published.ip_adapter["0.to_k_ip.weight"].shape[0]

        def fits(base: Base) -> bool:
            layers = base.layer_map.layers
            return len(layers) == count and all((one.part, one.width) == ("double", width) for one in layers)

        return dit_layer_map(published, fits, f"a DiT of width {width} with {count} joint blocks")

    def stream(self, published: "Published", layer_map: LayerMap, kappa: float) -> JointLayers:
        """The file's resampler, keys and values with gates of 1; shares the file's tensors."""
        layers = dict(published.ip_adapter)
        stream = JointLayers(layer_map, partial(_empty, _shapes(published.image_proj), _shapes(layers), layer_map))
        weights = {"gate.knots": torch.ones(1, layer_map.heads), "kappa": torch.tensor(kappa)}
        weights |= {f"step.resampler.{key}": value for key, value in published.image_proj.items()}
        for key, value in layers.items():
            number, part = key.split(".", 1)
            weights[f"step.layers.{number}.{_PARTS[part]}"] = value
        stream.load_state_dict(weights, assign=True)
        return stream


def _shapes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without data, so that nothing keeps the file's tensors."""
    return {key: torch.empty_like(value, device="meta") for key, value in state.items()}


def _empty(projector: dict, layers: dict, layer_map: LayerMap, operations: ModuleType | type) -> TimedKeysValues:
    """Empty weights of the file's shapes."""
    (width, context), dtype = layers["0.to_k_ip.weight"].shape, layers["0.to_k_ip.weight"].dtype
    head, time = len(layers["0.norm_q.weight"]), layers["0.norm_ip.linear.weight"].shape[1]
    made = [JointLayer(context, width, head, time, dtype, operations) for _ in layer_map.layers]
    return TimedKeysValues(TimeResampler(projector, operations), made)
