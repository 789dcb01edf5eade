"""Opening a base model from the shell: a diffusers folder in safetensors, on a known device."""

from pathlib import Path

import pytest
import torch
from lab import tiny_denoiser

from facecdm.errors import BadFile, FaceCDMError, MissingModel
from facecdm.hosts.diffusers.denoiser import open_base


@pytest.fixture
def folder(tmp_path):
    from diffusers import AutoencoderKL, DDPMScheduler

    tiny_denoiser().network.save_pretrained(tmp_path / "unet")
    AutoencoderKL(block_out_channels=[32], norm_num_groups=32).save_pretrained(tmp_path / "vae")
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    return tmp_path


def test_a_folder_in_safetensors_is_opened(folder):
    denoiser = open_base(str(folder), "cpu")
    wanted = tiny_denoiser().network.state_dict()
    assert denoiser.prediction == "v" and denoiser.can_decode
    assert all(torch.equal(value, wanted[name]) for name, value in denoiser.network.state_dict().items())


def test_the_demo_models_own_pose_controlnet_is_opened_by_its_name():
    assert open_base("demo", "cpu", Path("demo")).control_layers()
    with pytest.raises(MissingModel, match="nowhere.safetensors"):
        open_base("demo", "cpu", Path("nowhere.safetensors"))


def test_pickled_weights_missing_parts_and_unknown_devices_are_refused(folder):
    with pytest.raises(FaceCDMError, match="device 'gpu' is not one that torch knows"):
        open_base(str(folder), "gpu")
    with pytest.raises(FaceCDMError, match="device 'cuda:99' cannot be used here"):
        open_base(str(folder), "cuda:99")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(tiny_denoiser().network.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BadFile, match=r"unet cannot be read .*\.safetensors"):
        open_base(str(folder), "cpu")
    for path in (folder / "scheduler").iterdir():
        path.unlink()
    (folder / "scheduler").rmdir()
    with pytest.raises(MissingModel, match="has no scheduler/"):
        open_base(str(folder), "cpu")
