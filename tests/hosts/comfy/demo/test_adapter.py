"""Load FaceCDM Demo Adapter: the packaged files, and the errors for missing or damaged ones."""

import pytest
import torch
from twins import SMALL_SD15, make_twins

from facecdm.demo.paths import ADAPTER, ADAPTER_LORA, FOLDER

MOST = 60e6  # bytes of all demo weights together


@pytest.fixture(scope="module")
def host(in_comfy):
    return in_comfy.module("facecdm.hosts.comfy.demo.adapter")


@pytest.fixture(scope="module")
def demo(hosts):
    return hosts.load().model


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST


def test_the_lora_is_in_the_model_and_the_adapter_is_trained(in_comfy, demo):
    node = in_comfy.module("nodes.demo").LoadDemoAdapter
    with torch.inference_mode():
        model, adapter = node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(model=demo).result
    assert len(model.patches) > 50 and not demo.patches
    assert not adapter.is_new and adapter.config.recogniser.endswith("w600k_mbf.onnx")


def test_another_model_is_refused(host, in_comfy):
    with pytest.raises(in_comfy.module("facecdm.errors").Mismatch, match="the model is U-Net of 16 cross-attention"):
        host.load(make_twins(SMALL_SD15).model)


def test_the_files_are_those_of_the_folder_in_the_environment(in_comfy, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("FACECDM_DEMO_WEIGHTS", str(tmp_path))
    missing = in_comfy.module("facecdm.errors").MissingModel
    for module, arguments in (("adapter", (demo,)), ("pose", ())):
        with pytest.raises(missing, match=tmp_path.name):
            in_comfy.module(f"facecdm.hosts.comfy.demo.{module}").load(*arguments)


@pytest.mark.parametrize("which", ["adapter", "lora"])
def test_a_missing_or_truncated_file_is_named(host, in_comfy, demo, tmp_path, which):
    errors = in_comfy.module("facecdm.errors")
    path = tmp_path / "half.safetensors"
    with pytest.raises(errors.MissingModel, match="half.safetensors"):
        host.load(demo, **{which: path})
    path.write_bytes((ADAPTER if which == "adapter" else ADAPTER_LORA).read_bytes()[:1000])
    with pytest.raises(errors.BadFile, match="half.safetensors"):
        host.load(demo, **{which: path})
