"""Open untrusted folders of diffusers and transformers: from the disk, in safetensors, of known sizes."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .documents import parse_json
from .errors import BadFile, FaceCDMError, MissingModel
from .tensor_file import check_weights, open_safetensors

LARGEST = 1_000_000  # a width, a vocabulary, a number of time steps; SDXL's largest is 49,408
MOST_BLOCKS = 2_000  # blocks that the counts of a configuration multiply to; SDXL's are at most 600
CONFIGURATIONS = ("config.json", "scheduler_config.json")


def open_model(kind: type, folder: Path, dtype: torch.dtype | None = None) -> Any:
    """A model, frozen and in evaluation mode. `kind` is a class of diffusers or transformers; without `dtype` the
    library chooses the type of the weights.

    Raises MissingModel, and BadFile for pickled, missing, damaged, NaN or infinite weights.
    """
    _check_folder(folder)
    for path in folder.glob("*.safetensors"):
        _check_types(path)
    more = {} if dtype is None else {"torch_dtype": dtype}
    model, info = _open(kind, folder, use_safetensors=True, output_loading_info=True, **more)
    if info["missing_keys"]:
        raise BadFile(f"{folder} lacks the weights {sorted(info['missing_keys'])[0]}: get it again")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            check_weights(name, value, folder)
    return model.eval().requires_grad_(False)


def _check_folder(folder: Path) -> None:
    if not os.path.isdir(folder):  # Path.is_dir and glob raise OSError for a name that is too long
        raise MissingModel(f"{folder} is missing: give a folder that diffusers' or transformers' save_pretrained wrote")


def _check_types(path: Path) -> None:
    """Raise BadFile for weights that are not floating-point numbers, which the libraries convert silently."""
    with open_safetensors(path) as file:
        for name in file.keys():
            kind = file.get_slice(name).get_dtype()
            if not kind.startswith(("F", "BF")) and not name.endswith(("position_ids", "num_batches_tracked")):
                raise BadFile(f"{path}: {name} holds {kind}, not weights: get the folder again")


def open_part(kind: type, folder: Path) -> Any:
    """A part without weights: a tokenizer, a scheduler, a processor. Raises MissingModel, BadFile."""
    _check_folder(folder)
    return _open(kind, folder)


def class_name(folder: Path) -> str:
    """The class that a folder's configuration names, "" if none. Raises BadFile."""
    try:
        config = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadFile(f"{folder / 'config.json'} cannot be read: {str(error)[:300]}") from error
    return str(config.get("_class_name", "")) if isinstance(config, dict) else ""


def _open(kind: type, folder: Path, **options) -> Any:
    try:
        for name in CONFIGURATIONS:
            if (folder / name).is_file():
                check_sizes(parse_json((folder / name).read_bytes()))
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except FaceCDMError:
        raise
    except Exception as error:  # the two libraries, safetensors and tokenizers each raise their own types
        raise BadFile(f"{folder} cannot be read as a {kind.__name__}: {str(error)[:300]}") from error


def check_sizes(config: Any) -> None:
    """Raise ValueError if a configuration declares a size that no model has, or more blocks than any has."""
    counts, longest = [], 1
    for name, value in config.items() if isinstance(config, dict) else ():
        check_sizes(value)
        numbers = list(_numbers(value))
        if not all(number <= LARGEST for number in numbers):  # False for NaN, too
            raise ValueError(f"its configuration declares {name} {max(numbers):.6g}, more than any model has")
        longest = max(longest, len(value) if isinstance(value, list) else 1)
        if "layers" in name:
            counts += [max(numbers, default=1)]
    if math.prod(counts) * longest > MOST_BLOCKS:
        raise ValueError(
            f"its configuration declares {math.prod(counts) * longest:.6g} blocks, more than any model has"
        )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value
