"""The demo model's file: what is written is read again, and a damaged one is refused with a reason."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facecdm.demo.clip import TinyClip, Vocabulary
from facecdm.demo.paths import ADAPTER, in_use
from facecdm.demo.sizes import ClipSizes, DemoSizes
from facecdm.demo.train import Plan, Run
from facecdm.demo.weights import DemoWeights, from_run, read, write
from facecdm.errors import BadFile, MissingModel


@pytest.fixture
def small() -> DemoWeights:
    return DemoWeights(
        DemoSizes(image_size=64, clip=ClipSizes(width=64, text_layers=1)),
        Vocabulary([320, 786]),
        {"unet": 5},
        unet={"conv_in.weight": torch.randn(4, 4)},
        vae={"encoder.bias": torch.randn(3)},
        text={"text_projection.weight": torch.randn(2, 2)},
        vision={"visual_projection.weight": torch.ones(1)},
    )


@pytest.fixture
def path(small, tmp_path):
    write(small, tmp_path / "new folder" / "demo.safetensors")
    return tmp_path / "new folder" / "demo.safetensors"


def change(path, tensors=None, **metadata):
    """Rewrite the file with other tensors or metadata (None leaves a key out)."""
    with safe_open(path, framework="pt") as file:
        described = {**file.metadata(), **metadata}
    save_file({**load_file(path), **(tensors or {})}, path, {k: v for k, v in described.items() if v is not None})


def test_what_is_written_is_read_again_in_half_precision(small, path):
    again = read(path)
    assert again.sizes == small.sizes and again.steps == small.steps
    assert again.vocabulary.token_ids == [320, 786, 49406, 49407]
    for part in ("unet", "vae", "text", "vision"):
        for name, tensor in getattr(small, part).items():
            assert torch.equal(getattr(again, part)[name], tensor.half())
    assert [p.name for p in path.parent.iterdir()] == ["demo.safetensors"]


def test_the_file_says_where_it_comes_from(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["licence"] == "Apache-2.0" and "FaceWorld" in metadata["data"]


def test_the_environment_names_another_file(path, monkeypatch):
    monkeypatch.setenv("FACECDM_DEMO_WEIGHTS", str(path))
    assert read().steps == {"unet": 5}


def test_the_environment_names_a_folder(path, monkeypatch):
    monkeypatch.setenv("FACECDM_DEMO_WEIGHTS", str(path.parent))
    assert read().steps == {"unet": 5}
    assert in_use(ADAPTER) == path.with_name("adapter.safetensors")


def test_a_file_in_the_environment_replaces_the_model_only(path, monkeypatch):
    monkeypatch.setenv("FACECDM_DEMO_WEIGHTS", str(path))
    assert in_use(ADAPTER) == ADAPTER


def test_no_file(tmp_path):
    with pytest.raises(MissingModel, match="FACECDM_DEMO_WEIGHTS"):
        read(tmp_path / "demo.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_file_cut_off(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(BadFile, match=r"demo\.safetensors"):
        read(path)


def test_no_number(path):
    change(path, {"unet.conv_in.weight": torch.tensor([1.0, float("nan")])})
    with pytest.raises(BadFile, match="unet.conv_in.weight"):
        read(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": None},
        {"format": "facecdm-demo/9"},
        {"sizes": None},
        {"sizes": "[1]"},
        {"sizes": "{}"},
        {"sizes": "no JSON"},
        {"token_ids": "[99999999]"},
        {"token_ids": '["a"]'},
        {"steps": "[]"},
        {"sizes": json.dumps({"channels": [1], "attention": [True], "clip": {"width": 64}, "tail": 1})},
    ],
)
def test_another_description(path, metadata):
    change(path, **metadata)
    with pytest.raises(BadFile):
        read(path)


def test_a_run_folder_becomes_a_file(tmp_path):
    sizes = DemoSizes(clip=ClipSizes(width=64, text_layers=1, vision_layers=1))
    vocabulary, unet = Vocabulary([320]), torch.nn.Linear(2, 2)
    clip = TinyClip(sizes.clip, len(vocabulary), {"gender": ["man", "woman"]})
    with pytest.raises(MissingModel, match="demo train unet"):
        from_run(tmp_path, sizes, vocabulary)
    for name, model, average in (("unet", unet, 0.9), ("autoencoder", unet, None), ("text", clip, None)):
        run = Run(tmp_path, name, model, Plan(1, 1, 1e-3), average)
        if average:
            run.ema["weight"] += 1
        run.save()
    weights = from_run(tmp_path, sizes, vocabulary)
    assert torch.equal(weights.unet["weight"], unet.weight + 1), "the moving average, not the last step"
    assert "visual_projection.weight" in weights.vision and weights.steps["vision"] == 0
    assert "text_projection.weight" in weights.text
    assert not any("head" in name for name in (*weights.text, *weights.vision))
