"""Headers of published files: names, shapes and dtypes without data, from tests/formats/headers/*.json.

They are written from the documented layouts of the files (keys as their authors name them), not cut from downloads.
"""

import json
from pathlib import Path

import torch

from facecdm.formats.read import Published, canonical, separate

FOLDER = Path(__file__).resolve().parents[1] / "formats" / "headers"
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def entries() -> dict[str, dict]:
    """File name as published → the entry of its header: family, base, tokens, encoder, lora, tensors.

    `also` has the family, tokens and encoder of a second adapter in the file.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return {entry["file"]: entry for entry in found}


def published(entry: dict) -> Published:
    """As `read` gives it, with tensors on the meta device; the LoRA's are ones that share one number."""
    tensors = {}
    for kind, keys in entry["tensors"].items():
        dtype, _, sizes = kind.partition(" ")
        shape = [int(size) for size in sizes.split(",")]
        for key in keys:
            tensors[key] = (
                torch.ones((), dtype=DTYPES[dtype]).expand(shape)
                if "_lora." in key
                else torch.empty(shape, dtype=DTYPES[dtype], device="meta")
            )
    return canonical(tensors, {}, Path("models") / "ipadapter" / entry["file"])


def adapters() -> list[dict]:
    """An entry for every adapter in the files."""
    found = []
    for entry in entries().values():
        found += [entry, *([{**entry, **entry["also"]}] if "also" in entry else [])]
    return found


def adapter(entry: dict) -> Published:
    """As `published`, but only the tensors of the entry's own adapter."""
    parts = separate(published(entry))
    whole = entries()[entry["file"]]
    return parts[0 if whole["family"] == entry["family"] else 1]


def header(family: str, base: str) -> Published:
    """The first header of a family for a base model, with that base's layers where it was not published for it."""
    found = [entry for entry in adapters() if entry["family"] == family]
    own = next((entry for entry in found if entry["base"] == base), None)
    if own is not None:
        return adapter(own)
    layers = adapter(next(entry for entry in adapters() if entry["base"] == base))
    projector = adapter(found[0])
    return Published(projector.image_proj, layers.ip_adapter, {}, projector.path)
