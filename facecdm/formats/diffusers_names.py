"""An IP-Adapter inside a diffusers U-Net, under IP-Adapter's own names."""

import re
from pathlib import Path

import torch

from ..errors import BadFile
from .family import State

_PROJECTOR = "encoder_hid_proj.image_projection_layers."
_LAYER = re.compile(
    r"(down_blocks|up_blocks|mid_block)\.((?:(?:[a-z]\w*|0|[1-9]\d*)\.)*)attn2\.processor\.to_(k|v)_ip\.0\.weight$"
)
_ORDER = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
_RESAMPLER = (
    (".ln0.", ".0.norm1."),
    (".ln1.", ".0.norm2."),
    (".attn.to_out.0.", ".0.to_out."),
    (".attn.", ".0."),
    (".ff.1.net.0.proj.", ".1.1."),
    (".ff.1.net.2.", ".1.3."),
    (".ff.0.", ".1.0."),
)


def is_diffusers(state: State) -> bool:
    return any(_PROJECTOR in key for key in state)


def from_diffusers(state: State, path: Path) -> State:
    """Raises BadFile for several adapters in one file; KeyError, IndexError for an incomplete one."""
    if any(f"{_PROJECTOR}1." in key for key in state):
        raise BadFile(f"{path} holds several IP-Adapters. Save each in a file of its own.")
    projector = {
        key.split(_PROJECTOR)[1].split(".", 1)[1]: value for key, value in state.items() if f"{_PROJECTOR}0." in key
    }
    result = {f"image_proj.{key}": value for key, value in _projector(projector).items()}
    found = {key: match for key in state if (match := _LAYER.search(key))}
    order = sorted({_position(match) for match in found.values()})
    for key, match in found.items():
        result[f"ip_adapter.{1 + 2 * order.index(_position(match))}.to_{match[3]}_ip.weight"] = state[key]
    return result


def _position(match: re.Match) -> tuple[int, tuple[int, ...]]:
    return _ORDER[match[1]], tuple(map(int, re.findall(r"\d+", match[2])))


def _projector(state: State) -> State:
    if "image_embeds.weight" in state:
        return {key.replace("image_embeds.", "proj."): value for key, value in state.items()}
    if "ff.net.0.proj.weight" in state:  # Full-Face makes one token per state, FaceID several per embedding
        norm = "proj.3." if len(state["ff.net.2.weight"]) == len(state["norm.weight"]) else "norm."
        return {
            key.replace("ff.net.0.proj.", "proj.0.").replace("ff.net.2.", "proj.2.").replace("norm.", norm): value
            for key, value in state.items()
        }
    prefix = "perceiver_resampler." if "proj.net.2.weight" in state else ""
    result = {}
    for key, value in state.items():
        if key.startswith(("proj.", "norm.")):
            result[key.replace("proj.net.0.proj.", "proj.0.").replace("proj.net.2.", "proj.2.")] = value
        elif ".attn.to_v." not in key:
            name = key
            for theirs, ours in _RESAMPLER:
                name = name.replace(theirs, ours)
            if ".attn.to_k." in key:
                name = name.replace(".to_k.", ".to_kv.")
                value = torch.cat([value, state[key.replace(".to_k.", ".to_v.")]])
            result[prefix + name] = value
    return result
