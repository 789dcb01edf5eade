"""Apply a trained LoRA of a ControlNet to a CONTROL_NET."""

from collections.abc import Mapping

import comfy.lora
import torch
from comfy.controlnet import ControlBase, ControlLora
from torch import Tensor

from ....errors import BadFile, Mismatch, UnsupportedModel
from ....training.lora import Lora

PREFIX = "control_model."


def control_with_lora(net: ControlBase, tensors: Mapping[str, Tensor], strength: float) -> ControlBase:
    """A copy of CONTROL_NET with the LoRA at `strength`. The given net is unchanged; its weights are shared.

    `tensors` is the LORA_MODEL of a training run. Raises Mismatch if it is not a LoRA of a ControlNet, or is for
    another ControlNet; BadFile for a control-LoRA with halves missing; UnsupportedModel for a net that is not a
    ControlNet.
    """
    lora = Lora.from_tensors(tensors)
    if not lora.parts or not all(name.startswith(PREFIX) for name in lora.parts):
        raise Mismatch(
            'this LoRA is not a ControlNet\'s. Train one with "control" among what a stage trains, or '
            "apply it to the MODEL with core's Load LoRA."
        )
    changes = {name.removeprefix(PREFIX): part for name, part in lora.parts.items()}
    if isinstance(net, ControlLora):
        return _joined(net, changes, strength)
    patcher = getattr(net, "control_model_wrapped", None)
    if patcher is None:
        raise UnsupportedModel(f"a {type(net).__name__} cannot take the LoRA of a ControlNet: connect a ControlNet")
    shapes = {key: tuple(value.shape) for key, value in patcher.model.state_dict().items()}
    _check(changes, {name: shapes.get(f"{name}.weight") for name in changes})
    copy = net.copy()
    copy.control_model_wrapped = patcher.clone()
    copy.control_model_wrapped.add_patches(
        comfy.lora.load_lora(dict(tensors), {f"{PREFIX}{name}": f"{name}.weight" for name in changes}), strength
    )
    return copy


def _joined(net: ControlLora, changes: dict, strength: float) -> ControlLora:
    """Both are low-rank updates of the MODEL's weights, so their ranks are concatenated."""
    weights = dict(net.control_weights)
    for name, part in changes.items():
        up, down = part.up.detach().flatten(1) * part.scale * strength, part.down.detach()
        halves = [weights[key] for key in (f"{name}.up", f"{name}.down") if key in weights]
        if halves:
            if len(halves) < 2 or any(half.ndim < 2 for half in halves):
                raise BadFile(f"control_net's {name} is incomplete: get the ControlNet's file again")
            before_up, before_down = halves
            if before_down.shape[1:] != down.shape[1:] or len(before_up) != len(up):
                _check({name: part}, {name: (len(before_up), *before_down.shape[1:])})
            up = torch.cat([before_up.flatten(1), up.to(before_up)], 1)
            down = torch.cat([before_down, down.to(before_down)])
        weights[f"{name}.up"], weights[f"{name}.down"] = up, down
    copy = net.copy()
    copy.control_weights = weights
    return copy


def _check(changes: dict, shapes: dict[str, tuple | None]) -> None:
    for name, part in changes.items():
        if shapes[name] != tuple(part.weight.shape):
            found = "has no such layer" if shapes[name] is None else f"has {'×'.join(map(str, shapes[name]))} there"
            raise Mismatch(
                f"the LoRA was made for another ControlNet: its {name} is of "
                f"{'×'.join(map(str, part.weight.shape))}, and control_net {found}"
            )
