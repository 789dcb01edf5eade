"""Tensors of a file from outside: the one place where they are read and checked."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .errors import BadFile

DAMAGED = "The file is damaged: get it again."
MOST_ENTRIES = 50_000  # tensors and nested parts of a pickle; full SDXL has 2,500


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor of a .safetensors file or a tensors-only pickle, nested names joined by dots, and the metadata.

    No code in a file is run. Raises BadFile: unreadable, not a plain file, more than tensors, or tensors that claim
    more memory than the file holds.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
        tensors = dict(_flatten(torch.load(path, map_location="cpu", weights_only=True)))
        _check_memory(tensors, path.stat().st_size)
        return tensors, {}
    except Exception as error:  # pickle, zip and safetensors each have types of their own
        raise BadFile(
            f"{path} cannot be read: {_first_line(error)}. It is damaged, was cut off, or holds more than tensors: "
            "get it again, as .safetensors where there is a choice."
        ) from error


def check_weights(name: str, tensor: Tensor, source: object, advice: str = DAMAGED) -> None:
    """Raises BadFile, naming `source`, if `tensor` is no weight: integers, NaN or infinity."""
    if not tensor.is_floating_point():
        raise BadFile(f"{source}: {name} holds {str(tensor.dtype).removeprefix('torch.')}, not weights. {advice}")
    wide = tensor if tensor.element_size() > 1 else tensor.float()  # torch has no isfinite for fp8
    if not torch.isfinite(wide).all():
        raise BadFile(f"{source}: {name} holds NaN or infinity. {advice}")


def count_numbered(names: Iterable[str], prefix: str) -> int:
    """Number of `prefix0.…`, `prefix1.…`. Raises ValueError for a gap, so that a name cannot declare a huge count."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
    if numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"{prefix}N is not numbered 0, 1, 2 …")
    return len(numbers)


def _flatten(value: object) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of a nested dict. A shared part counts each time, so that none unfolds without end."""
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
    if claimed > 4 * size:  # shared tensors count more than once
        raise ValueError(f"its tensors claim {claimed:,} bytes and the file has {size:,}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
