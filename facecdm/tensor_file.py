"""Read and check the tensors of an untrusted file. No other module does this."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from torch import Tensor, nn

from .errors import BadFile, FaceCDMError
from .pickle_check import CODE, check_pickle

DAMAGED = "The file is damaged: get it again."
MOST_ENTRIES = 50_000  # tensors and nested parts of one file; full SDXL has 2,500
LARGEST_WEIGHT = 1e10  # far above any trained weight; larger ones overflow in products
SAFE_TORCH = (2, 10)  # older ones run code in a crafted pickle, even with weights_only (CVE-2025-32434, CVE-2026-24747)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a .safetensors file or a tensors-only pickle (nested names joined by dots), and the metadata.

    No code in a file is run. Raises BadFile: unreadable, not a plain file, content other than tensors, or
    tensors that claim more memory than the file holds.
    """
    if path.suffix.lower() == ".safetensors":
        with open_safetensors(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    with _reading(path):
        check_pickle_allowed(path)
        tensors = dict(_flatten(load_pickle(path)))
        _check_memory(tensors, path.stat().st_size)
        return tensors, {}


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a file with `safe_open`. Within the block, every error except FaceCDMError becomes BadFile."""
    from safetensors import safe_open

    with _reading(path), safe_open(path, "pt") as file:
        if len(file.keys()) > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES:,} entries")
        yield file


def check_pickle_allowed(path: Path) -> None:
    """Raise BadFile if this torch version cannot read untrusted pickles safely."""
    if not pickles_are_safe():
        raise BadFile(
            f"{path} is not read: before torch {'.'.join(map(str, SAFE_TORCH))} (here {torch.__version__}) a crafted "
            ".bin, .pt or .pth file can run code. Update torch, or get the file as .safetensors."
        )


def load_pickle(source: Path | IO[bytes]) -> Any:
    """Tensors and plain values of a pickle. No code in it is run. Raises ValueError and many torch errors."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return load_pickle(file)
    check_pickle(source)
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(CODE if "Unsupported" in str(error) else "it is no pickle of tensors") from error


def pickles_are_safe() -> bool:
    """Whether this torch version has no known security advisory about reading pickles."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= SAFE_TORCH


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        yield
    except FaceCDMError:
        raise
    except Exception as error:  # pickle, zip and safetensors each raise their own types
        raise BadFile(
            f"{path} cannot be read: {_first_line(error)}. It is damaged, was cut off, or holds more than tensors: "
            "get it again, as .safetensors where there is a choice."
        ) from error


def check_weights(name: str, tensor: Tensor, source: object, advice: str = DAMAGED) -> None:
    """Raise BadFile, which names `source`, if `tensor` holds integers, NaN, infinity or far too large values."""
    if not tensor.is_floating_point():
        raise BadFile(f"{source}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not weights. {advice}")
    if not tensor.numel():
        return
    wide = tensor if tensor.element_size() > 1 else tensor.float()  # torch cannot compare fp8
    low, high = map(float, torch.aminmax(wide.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):  # aminmax propagates NaN
        raise BadFile(f"{source}: {name} holds NaN or infinity. {advice}")
    if max(-low, high) > LARGEST_WEIGHT:
        raise BadFile(f"{source}: {name} holds {max(low, high, key=abs):.3g}, which no training gives. {advice}")


def load_network(kind: Callable[[], nn.Module], path: Path, problem: str, advice: str) -> nn.Module:
    """A network with the weights at `path` in float32, for inference. Other tensors of the file are ignored.

    Raises BadFile: `problem` and `advice` say what a file is not, and what to do.
    """
    state = read_tensors(path)[0]
    with torch.device("meta"):
        network = kind()
    try:
        weights = {key: state[key] for key in network.state_dict()}
        for key, value in weights.items():
            if not key.endswith("num_batches_tracked"):
                check_weights(key, value, path)
                weights[key] = value.float()
        network.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError) as error:
        raise BadFile(f"{path} {problem} ({str(error)[:200]}). {advice}") from error
    return network.requires_grad_(False).eval()


def count_numbered(names: Iterable[str], prefix: str) -> int:
    """Count `prefix0.…`, `prefix1.…`. Raises ValueError for a gap, so that a name cannot declare a huge count."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"{prefix}N is not numbered 0, 1, 2 …")
    return len(numbers)


def _flatten(value: object) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of a nested dict. Shared parts count each time, so a cycle reaches the limit."""
    pending, visited = [("", value)], 0
    while pending:
        name, value = pending.pop()
        visited += 1
        if visited > MOST_ENTRIES:
            raise ValueError(f"it has more than {MOST_ENTRIES:,} entries")
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            pending += [(f"{name}.{key}" if name else str(key), part) for key, part in reversed(value.items())]


def _check_memory(tensors: dict[str, Tensor], size: int) -> None:
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is not a plain tensor")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 4 * size:  # shared tensors are counted repeatedly
        raise ValueError(f"its tensors claim {claimed:,} bytes and the file has {size:,}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
