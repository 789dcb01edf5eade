"""A small data set and a configuration for the shell's training on a DiT's folder."""

import json
from pathlib import Path

import yaml
from datasets import StubFinder, colourful, save
from safetensors.torch import load_file

from facecdm.adapter.native import load_adapter
from facecdm.cli import parser_of
from facecdm.commands.train import main
from facecdm.hosts.diffusers.dit_encoders import open_encoders
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.settings import Settings
from facecdm.training.dataset.sources import FolderSource


def small_data(folder: Path, place: Path, captions: tuple[str, str], people: int = 3):
    """Six pictures, the last of which has the second caption."""
    for number in range(6):
        save(
            place / "pictures" / f"person {number % people}" / f"{number}.png", colourful(number), captions[number // 5]
        )
    settings = Settings(resolution=64, step=32, augmented=0)
    return prepare(FolderSource(place / "pictures"), place / "data", open_encoders(folder), StubFinder(), settings)


def write(place: Path, folder: Path, data, **more) -> Path:
    """A configuration of three stages with three steps each; `more` are other keys of it."""
    settings = {"steps": 3, "batch": 2, "warmup": 0, "validate_every": 3, "identity": 0.0, "face_region": 0.0}
    config = {
        "base": str(folder),
        "data": str(data.folder),
        "out": "run",
        "held_out": 0.0,
        "device": "cpu",
        "sizes": {"face_rank": 4, "token_width": 64, "cell_width": 64},
        "all": settings | {"alignment": 0.0, "background": 0.0, "localisation": 0.0},
        "stages": {
            "identity": {"lora_rank": 2, "checkpointing": True, "localisation": 0.1},
            "fine": {"alignment": 0.5, "alignment_every": 1},
        },
    }
    path = place / "train.yaml"
    path.write_text(yaml.safe_dump(config | more))
    return path


def train(path: Path) -> int:
    return main(parser_of("train").parse_args([str(path)]))


def check_three_stages(out: Path, layer: str) -> None:
    """Assert that a run of `write`'s three stages has trained the adapter and the LoRA of `layer`."""
    adapter = load_adapter(out / "adapter.safetensors")
    assert adapter.config.layer_map.is_dit and not adapter.streams["face"].gate.is_zero
    assert adapter.streams["face"].queries[0].to_out.weight.any()
    assert load_file(out / "adapter_lora.safetensors")[f"{layer}.lora_up.weight"].any()
    for stage in ("broad", "identity", "fine"):
        lines = [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()]
        assert all(line["diffusion"] > 0 and line["gradient"] > 0 for line in lines if "diffusion" in line)
    assert "alignment" in (out / "fine.jsonl").read_text() and "localisation" in (out / "identity.jsonl").read_text()
    assert list((out / "pictures").glob("broad-*.png"))
