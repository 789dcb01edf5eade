"""Folders that diffusers or transformers saved: typed errors for what is missing, damaged or of absurd size."""

import json

import pytest
import torch
from lab import tiny_denoiser
from safetensors.torch import load_file, save_file

from facecdm.errors import BadFile, MissingModel
from facecdm.saved_folder import check_sizes, open_model, open_part

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def unet():
    return tiny_denoiser().network


@pytest.fixture
def folder(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    return tmp_path


def test_it_is_what_was_saved(unet, folder):
    opened = open_model(type(unet), folder)
    wanted = unet.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in opened.state_dict().items())
    assert not opened.training and not any(value.requires_grad for value in opened.parameters())
    assert open_model(type(unet), folder, torch.float16).dtype == torch.float16


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.pop("conv_out.bias"), "lacks the weights conv_out.bias"),
        (lambda t: t.update({"conv_out.bias": t["conv_out.bias"] * float("nan")}), "conv_out.bias holds NaN"),
        (lambda t: t.update({"conv_out.bias": torch.ones(5)}), "cannot be read"),
        (lambda t: t.update({"conv_out.bias": torch.ones(4, dtype=torch.uint8)}), "conv_out.bias holds U8"),
    ],
)
def test_damaged_weights(unet, folder, change, message):
    """The libraries fill a gap with random numbers."""
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(BadFile, match=message):
        open_model(type(unet), folder)


@pytest.mark.parametrize(
    "config",
    [
        {"layers_per_block": 10**9},
        {"layers_per_block": [10**4, 1]},
        {"transformer_layers_per_block": [[10**4]]},
        {"block_out_channels": [32] * 10**5},
        {"block_out_channels": [10**9, 64]},
        {"cross_attention_dim": float("inf")},
        {"sample_size": float("nan")},
        {"norm_num_groups": "x" * 2**20},
        {"act_fn": {"a": 10**400}},
    ],
)
def test_absurd_configurations(unet, folder, config):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | config), "utf-8")
    with pytest.raises(BadFile) as caught:
        open_model(type(unet), folder)
    assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize("text", ["", "[" * 10**5, "7", "[]", "null", "\x00"])
def test_other_configurations(unet, folder, text):
    (folder / "config.json").write_text(text, "utf-8")
    with pytest.raises(BadFile):
        open_model(type(unet), folder)


def test_configurations_of_known_models():
    """SDXL's U-Net, with both lists of depths, and CLIP bigG."""
    check_sizes({"layers_per_block": 2, "transformer_layers_per_block": [1, 2, 10], "block_out_channels": [1, 2, 3],
                 "reverse_transformer_layers_per_block": [10, 2, 1], "force_upcast": True, "center_input": None,
                 "cross_attention_dim": 2048})  # fmt: skip
    tower = {"num_hidden_layers": 48, "vocab_size": 49408, "architectures": ["CLIPModel"]}
    check_sizes({"text_config": tower, "vision_config": tower, "logit_scale_init_value": 2.6592})


@pytest.mark.parametrize("name", ["none", "n" * 300])
def test_a_folder_that_is_not_there(unet, tmp_path, name):
    with pytest.raises(MissingModel, match="save_pretrained"):
        open_model(type(unet), tmp_path / name)


def test_a_scheduler_of_a_billion_steps(tmp_path):
    from diffusers import DDPMScheduler

    with pytest.raises(MissingModel, match="save_pretrained"):
        open_part(DDPMScheduler, tmp_path / "none")
    DDPMScheduler().save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    path.write_text(path.read_text("utf-8").replace('"num_train_timesteps": 1000', '"num_train_timesteps": 1000000000'))
    with pytest.raises(BadFile, match="declares num_train_timesteps 1e"):
        open_part(DDPMScheduler, tmp_path)
