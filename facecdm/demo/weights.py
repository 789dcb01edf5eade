"""The demo model as one file: safetensors in fp16, with everything needed to build the model.

Tensor names are `unet.` + diffusers' names, `vae.` + those of demo.autoencoder, `text.` and `vision.` + the names of
transformers' CLIP models. The metadata holds sizes, vocabulary, steps trained, licence and origin.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..documents import parse_json
from ..errors import BadFile, MissingModel
from ..tensor_file import check_weights, open_safetensors, read_tensors
from .clip import Vocabulary
from .paths import VARIABLE, default_path
from .sizes import DemoSizes

FORMAT = "facecdm-demo/1"
LICENCE = "Apache-2.0"
DATA = (
    "FaceWorld: synthetic portraits rendered from CC0 MakeHuman data. No photograph of a person, and no "
    "face recogniser, took part in the training."
)
PARTS = ("unet", "vae", "text", "vision")


@dataclass(frozen=True)
class DemoWeights:
    """`steps` is the number of training steps per part; the parts map names to tensors, as stored (fp16)."""

    sizes: DemoSizes
    vocabulary: Vocabulary
    steps: dict[str, int]
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text: dict[str, Tensor]
    vision: dict[str, Tensor]


def read(path: Path | None = None) -> DemoWeights:
    """Read the file. Raises MissingModel without one, BadFile if it is truncated, of another format, or holds NaN."""
    path = path or default_path()
    metadata, tensors = _open(path)
    if metadata.get("format") != FORMAT:
        raise BadFile(
            f"{path} is not a demo model of format {FORMAT} (it says {metadata.get('format')!r}); clone the pack anew"
        )
    for name, tensor in tensors.items():
        check_weights(name, tensor, path, "Clone the pack anew.")
    try:
        sizes = DemoSizes.from_json(metadata["sizes"])
        vocabulary = Vocabulary(parse_json(metadata["token_ids"]))
        steps = {part: int(count) for part, count in parse_json(metadata["steps"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise BadFile(f"{path}: its description cannot be read ({error!r}); clone the pack anew") from error
    parts = {
        part: {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}
        for part in PARTS
    }
    return DemoWeights(sizes, vocabulary, steps, **parts)


def read_sizes(path: Path | None = None) -> DemoSizes:
    """Read the sizes alone, such as the `image_size` that graphs use. Raises MissingModel, BadFile."""
    path = path or default_path()
    _check_there(path)
    with open_safetensors(path) as file:
        return DemoSizes.from_json((file.metadata() or {})["sizes"])


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    _check_there(path)
    tensors, metadata = read_tensors(path)
    return metadata, tensors


def _check_there(path: Path) -> None:
    if not os.path.isfile(path):  # also for a name that is too long
        raise MissingModel(
            f"the demo model's weights are not at {path}; clone the pack anew, or name another "
            f"file in the environment variable {VARIABLE}"
        )


def write(weights: DemoWeights, path: Path) -> None:
    """Write fp16, atomically."""
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{name}": tensor.to(torch.float16).contiguous()
        for part in PARTS
        for name, tensor in getattr(weights, part).items()
    }
    metadata = {
        "format": FORMAT,
        "sizes": weights.sizes.to_json(),
        "licence": LICENCE,
        "data": DATA,
        "token_ids": json.dumps(weights.vocabulary.token_ids),
        "steps": json.dumps(weights.steps),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata)
    partial.chmod(0o644)  # safetensors makes it readable by the owner only
    partial.replace(path)


def from_run(
    folder: Path,
    sizes: DemoSizes,
    vocabulary: Vocabulary,
    begin: DemoWeights | None = None,
    average: Path | None = None,
) -> DemoWeights:
    """Collect a run folder's weights: the U-Net's moving average, and the vision tower if it is trained already.

    A run from a weights file (`begin`) trains U-Net and decoder; other parts and earlier steps come from the file.
    `average` is a file of averages that Plan.keep_pictures saved, instead of the last ones.
    """
    unet = checkpoint(average or folder / "unet.pt")
    if sizes.decoder:
        decoder = checkpoint(folder / "decoder.pt")
        vae, vae_steps = part(decoder["ema"], "autoencoder."), decoder["step"]
    else:
        autoencoder = checkpoint(folder / "autoencoder.pt")
        vae, vae_steps = autoencoder["model"], autoencoder["step"]
    if begin is not None:
        steps = begin.steps | {"unet": begin.steps.get("unet", 0) + unet["step"], "vae": vae_steps}
        return DemoWeights(sizes, vocabulary, steps, unet=unet["ema"], vae=vae, text=begin.text, vision=begin.vision)
    text = checkpoint(folder / "text.pt")
    vision = checkpoint(folder / "vision.pt") if (folder / "vision.pt").exists() else text | {"step": 0}
    steps = {"unet": unet["step"], "vae": vae_steps, "text": text["step"], "vision": vision["step"]}
    return DemoWeights(
        sizes,
        vocabulary,
        steps,
        unet=unet["ema"],
        vae=vae,
        text=part(text["model"], "text_tower."),
        vision=part(vision["model"], "vision_tower."),
    )


def checkpoint(path: Path) -> dict:
    """Load a part's training result. Raises MissingModel if it is not trained yet, BadFile if truncated."""
    if not path.is_file():
        raise MissingModel(f"no {path}: train this part first (python -m facecdm demo train {path.stem} …)")
    from .train import load_checkpoint

    return load_checkpoint(path)


def part(model: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Select the tensors with a prefix, and remove it from their names. Heads and discriminator are left out."""
    return {name.removeprefix(prefix): tensor for name, tensor in model.items() if name.startswith(prefix)}
