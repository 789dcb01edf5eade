"""Read published adapters under one naming of their tensors, whichever program saved them.

Canonical names are those of the first IP-Adapter: `image_proj` holds the projector, and `ip_adapter` holds the
part that acts in the base model's layers (formats/unet_layers.py, formats/cell_layers.py).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile
from ..tensor_file import check_weights, read_tensors
from .diffusers_names import from_diffusers, is_diffusers
from .families import FAMILIES
from .families.refused import other_method
from .family import State
from .projectors import within

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_PARTS = {
    "image_proj.": "image_proj",
    "image_proj_model.": "image_proj",
    "ip_adapter.": "ip_adapter",
    "adapter_modules.": "ip_adapter",
}


@dataclass(frozen=True, eq=False)
class Published:
    """One file's tensors under their canonical names, its metadata, and its path."""

    image_proj: State
    ip_adapter: State
    metadata: dict[str, str]
    path: Path


def read(path: Path) -> Published:
    """Read a nested .bin or .pt, flat safetensors, or a diffusers U-Net.

    Raises BadFile if the file is unreadable, no adapter, or incomplete, or contains NaN or infinity.
    """
    published = canonical(*read_tensors(path), path)
    for part in ("image_proj", "ip_adapter"):
        for key, value in getattr(published, part).items():
            check_weights(f"{part}.{key}", value, path)
    return published


def canonical(tensors: State, metadata: dict[str, str], path: Path) -> Published:
    """A file's tensors under their canonical names. Raises BadFile if it is no adapter or incomplete."""
    tensors = {_canonical_key(key): value for key, value in tensors.items()}
    if is_diffusers(tensors):
        with incomplete(path):
            tensors = from_diffusers(tensors, path)
    parts: dict[str, State] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in tensors.items():
        for prefix, part in _PARTS.items():
            if key.startswith(prefix):
                parts[part][key.removeprefix(prefix)] = value
    published = Published(parts["image_proj"], parts["ip_adapter"], metadata, path)
    for one in separate(published):
        if not _is_whole(one):
            raise BadFile(
                f"{path} is {kind_of(list(tensors))}. FaceCDM reads its own adapters and those of the IP-Adapter, "
                "FaceID, InstantID, PuLID, UniPortrait, ConsistentID, WithAnyone, InfiniteYou, XLabs and InstantX "
                "families: files that hold a projector and its layers."
            )
    return published


def _is_whole(published: Published) -> bool:
    """Whether there is a projector, and the layers that go with it; few families have none."""
    if not published.ip_adapter:
        return any(family.matches(published) for family in FAMILIES.values())
    formats = {family.layers for family in FAMILIES.values()}
    return bool(published.image_proj) and any(layers.matches(published.ip_adapter) for layers in formats)


def separate(published: Published) -> tuple[Published, ...]:
    """The adapters in a file, one for each stream. Most files hold a single one."""
    prefixes = [f"{family.part}." for family in FAMILIES.values() if family.part]
    present = [prefix for prefix in prefixes if any(key.startswith(prefix) for key in published.ip_adapter)]
    parts = ((within(published.image_proj, one), within(published.ip_adapter, one)) for one in present)
    return tuple(Published(*part, published.metadata, published.path) for part in parts) or (published,)


@contextmanager
def incomplete(path: Path) -> Iterator[None]:
    """Turn a missing tensor, or tensors that do not fit together, into BadFile."""
    try:
        yield
    except (RuntimeError, KeyError, ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise BadFile(
            f"{path} is incomplete, or its tensors do not fit together ({str(error)[:200]}): get the file again."
        ) from error


def _canonical_key(key: str) -> str:
    key = key.removeprefix("module.")
    for family in FAMILIES.values():
        for theirs, ours in family.renames:
            key = re.sub(theirs, ours, key, count=1)
    return key


def kind_of(keys: list[str]) -> str:
    """The most probable kind of a file, for an error message."""
    if sentence := other_method(keys):
        return sentence
    if any(key.startswith(tuple(_PARTS)) for key in keys):
        return "a part of an IP-Adapter (a whole one has both image_proj and ip_adapter: get it again)"
    if any(key.startswith(("lora_unet", "lora_te", "unet.")) or ".lora_" in key or "lora_A" in key for key in keys):
        return "a LoRA (load it with core's Load LoRA)"
    if any(key.startswith(("vision_model.", "visual.")) for key in keys):
        return "a CLIP vision model (put it into models/clip_vision)"
    if any(key.startswith(("controlnet_", "control_model.", "zero_convs.")) for key in keys):
        return "a ControlNet (put it into models/controlnet)"
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in keys):
        return "a checkpoint (put it into models/checkpoints)"
    if any(key.startswith(("down_blocks.", "mid_block.", "up_blocks.")) for key in keys):
        return "a U-Net of diffusers, such as Arc2Face's (put it into models/diffusion_models)"
    if any(key.startswith("text_model.") for key in keys):
        return "a CLIP text encoder (put it into models/text_encoders)"
    return "a file of another kind"
