"""Files of published adapters → one naming of their tensors, whoever saved them.

Canonical names are those of the first IP-Adapter: `image_proj` holds the projector, `ip_adapter` the keys and values
`{odd}.to_k_ip.weight` of every cross-attention layer (down, up, mid) and, in FaceID files, a LoRA of every attention.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile
from .pulid import from_upstream

State = dict[str, Tensor]
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_PARTS = {
    "image_proj.": "image_proj",
    "image_proj_model.": "image_proj",
    "ip_adapter.": "ip_adapter",
    "adapter_modules.": "ip_adapter",
}
_DIFFUSERS = "encoder_hid_proj.image_projection_layers."


@dataclass(frozen=True, eq=False)
class Published:
    """One file's tensors under their canonical names, its metadata, and its path."""

    image_proj: State
    ip_adapter: State
    metadata: dict[str, str]
    path: Path


def read(path: Path) -> Published:
    """Nested .bin or .pt (tensors only: no code is run), flat safetensors, or a diffusers U-Net's own naming.

    Raises BadFile: unreadable, no adapter, incomplete, or with NaN or infinity in it.
    """
    flat, metadata = tensors_of(path)
    flat = from_upstream({key.removeprefix("module."): value for key, value in flat.items()})
    if any(_DIFFUSERS in key for key in flat):
        flat = _from_diffusers(flat, path)
    parts: dict[str, State] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        for prefix, part in _PARTS.items():
            if key.startswith(prefix):
                parts[part][key.removeprefix(prefix)] = value
    if not parts["image_proj"] or not any(".to_k_ip." in key for key in parts["ip_adapter"]):
        raise BadFile(
            f"{path} is {kind_of(list(flat))}. FaceCDM reads its own adapters and those of the IP-Adapter, "
            "FaceID, InstantID and PuLID families: files that hold image_proj and ip_adapter."
        )
    for part, state in parts.items():
        for key, value in state.items():
            if not torch.isfinite(value).all():
                raise BadFile(f"{path}: {part}.{key} holds NaN or infinity. The file is damaged: get it again.")
    return Published(parts["image_proj"], parts["ip_adapter"], metadata, path)


def kind_of(keys: list[str]) -> str:
    """What a file most probably is, for an error's sentence."""
    if any(key.startswith(tuple(_PARTS)) for key in keys):
        return "a part of an IP-Adapter (a whole one has both image_proj and ip_adapter: get it again)"
    if any(key.startswith("pulid_ca.") for key in keys):
        return "PuLID for Flux, which has no U-Net (PuLID for SDXL is pulid_v1.1.safetensors)"
    if any(key.startswith(("lora_unet", "lora_te", "unet.")) or ".lora_" in key or "lora_A" in key for key in keys):
        return "a LoRA (load it with core's Load LoRA)"
    if any(key.startswith(("vision_model.", "visual.")) for key in keys):
        return "a CLIP vision model (put it into models/clip_vision)"
    if any(key.startswith(("controlnet_", "control_model.", "zero_convs.")) for key in keys):
        return "a ControlNet (put it into models/controlnet)"
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in keys):
        return "a checkpoint (put it into models/checkpoints)"
    return "a file of another kind"


def tensors_of(path: Path) -> tuple[State, dict[str, str]]:
    """Every tensor of a file, names of nested ones joined by dots, and its metadata. Raises BadFile."""
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        return dict(_flat(torch.load(path, map_location="cpu", weights_only=True))), {}
    except Exception as error:  # pickle, zip, safetensors: each has its own types
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadFile(
            f"{path} cannot be read: {what}. It is damaged, was cut off, or holds more than tensors: "
            "get it again, as .safetensors where there is a choice."
        ) from error


def _flat(value, prefix: str = ""):
    if isinstance(value, Tensor):
        yield prefix.removesuffix("."), value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}{key}.")


# ---- a diffusers U-Net with an IP-Adapter in it ----

_PLACE = re.compile(r"(down_blocks|up_blocks|mid_block)\.(.*)attn2\.processor\.to_(k|v)_ip\.0\.weight$")
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


def _from_diffusers(flat: State, path: Path) -> State:
    projector = {
        key.split(_DIFFUSERS)[1].split(".", 1)[1]: value for key, value in flat.items() if f"{_DIFFUSERS}0." in key
    }
    if any(f"{_DIFFUSERS}1." in key for key in flat):
        raise BadFile(f"{path} holds several IP-Adapters at once. Save each in a file of its own.")
    result = {f"image_proj.{key}": value for key, value in _projector(projector).items()}
    places = {key: found for key in flat if (found := _PLACE.search(key))}
    layers = sorted({(_ORDER[found[1]], tuple(map(int, re.findall(r"\d+", found[2])))) for found in places.values()})
    for key, found in places.items():
        number = 1 + 2 * layers.index((_ORDER[found[1]], tuple(map(int, re.findall(r"\d+", found[2])))))
        result[f"ip_adapter.{number}.to_{found[3]}_ip.weight"] = flat[key]
    return result


def _projector(state: State) -> State:
    if "image_embeds.weight" in state:
        return {key.replace("image_embeds.", "proj."): value for key, value in state.items()}
    if "ff.net.0.proj.weight" in state:  # Full-Face makes one token of a state, FaceID several of an embedding
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
            new = key
            for old, own in _RESAMPLER:
                new = new.replace(old, own)
            if ".attn.to_k." in key:
                new = new.replace(".to_k.", ".to_kv.")
                value = torch.cat([value, state[key.replace(".to_k.", ".to_v.")]])
            result[prefix + new] = value
    return result
