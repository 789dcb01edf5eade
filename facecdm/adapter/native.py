"""FaceCDM's own adapter file: safetensors, with the configuration in its metadata."""

import re
import textwrap
from pathlib import Path

import torch

from .. import __version__
from ..bases import name_of
from ..errors import BadFile, FaceCDMError
from ..files import check_filename, write_named
from ..tensor_file import check_weights, open_safetensors
from .config import AdapterConfig
from .model import TripletAdapter

FORMAT = "facecdm.adapter"
VERSION = "1"
DIVERGED = "The training that made it diverged, or the file is damaged: use an earlier checkpoint."
KEYS_VALUES = re.compile(r"streams\.\w+\.(to_[kv]|keys|queries)\..*")


def save_adapter(
    adapter: TripletAdapter, folder: Path, name: str, overwrite: bool = False, notes: dict[str, str] | None = None
) -> Path:
    """Write folder/name.safetensors (see `files.write_named`) with `notes` added to the metadata.

    Raises UnsafeName, FaceCDMError if a weight is NaN or infinite.
    """
    from safetensors.torch import save

    check_filename(name)
    tensors = {key: value.detach().cpu().contiguous() for key, value in adapter.state_dict().items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise FaceCDMError(f"the adapter is not saved: {key} holds NaN or infinity. The training diverged")
    metadata = {
        **(notes or {}),
        "format": FORMAT,
        "version": VERSION,
        "config": adapter.config.dumps(),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.architecture": f"{name_of(adapter.config.layer_map)}/facecdm",
        "modelspec.implementation": f"FaceCDM {__version__}",
    }
    return write_named(save(tensors, metadata), folder, name, overwrite)


def is_native(path: Path) -> bool:
    """Whether a file's metadata marks it as FaceCDM's own adapter."""
    if path.suffix.lower() != ".safetensors":
        return False
    try:
        with open_safetensors(path) as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except BadFile:
        return False


def read_config(path: Path) -> AdapterConfig:
    """Read the configuration alone. Raises BadFile."""
    with open_safetensors(path) as file:
        return _config(file.metadata() or {}, list(file.keys()), path)


def load_adapter(path: Path) -> TripletAdapter:
    """Read an adapter: key and value weights in their saved dtype, all other weights as fp32.

    Raises BadFile if the file is truncated, incomplete, of another kind or version, or contains NaN or infinity.
    """
    with open_safetensors(path) as file:
        config = _config(file.metadata() or {}, list(file.keys()), path)
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    for key, value in tensors.items():
        check_weights(key, value, path, DIVERGED)
        if not KEYS_VALUES.fullmatch(key):
            tensors[key] = value.float()
    try:
        with torch.device("meta"):
            adapter = TripletAdapter(config)
        adapter.load_state_dict(tensors, assign=True)
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        what = textwrap.shorten(str(error), 300, placeholder=" …")
        raise BadFile(
            f"{path} does not hold what its configuration says ({what}). "
            "It is damaged, or a part of it was lost: copy or save it again."
        ) from error
    return adapter.requires_grad_(False).eval()


def _config(metadata: dict[str, str], keys: list[str], path: Path) -> AdapterConfig:
    if metadata.get("format") != FORMAT:
        raise BadFile(
            f"{path} is {_kind(keys)}, and an adapter of FaceCDM is needed here: save one with Save FaceCDM Adapter."
        )
    if metadata.get("version") != VERSION:
        raise BadFile(
            f"{path} has version {metadata.get('version')} of the format; this FaceCDM reads version "
            f"{VERSION}. Update FaceCDM."
        )
    return AdapterConfig.loads(metadata.get("config", ""), str(path))


def _kind(keys: list[str]) -> str:
    if any(key.startswith(("image_proj.", "ip_adapter.")) for key in keys):
        return "an IP-Adapter file"
    if any("lora" in key for key in keys):
        return "a LoRA"
    return "a file of another kind"
