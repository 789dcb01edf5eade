"""The LoRA inside a FaceID file: equal to diffusers, and errors for a damaged one."""

from pathlib import Path

import pytest
import torch
from oracle import diffusers_adapters, predict_with_images
from published import flat
from safetensors.torch import save_file
from twins import conditioning, predict

from facecdm.adapter.features import Features
from facecdm.adapter.person import Person
from facecdm.errors import BadFile
from facecdm.formats.imported import import_adapter, load_any
from facecdm.formats.read import Published
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.lora import apply_lora

SIGMA = 3.0


@pytest.mark.parametrize("with_lora", [True, False])
def test_a_whole_faceid_file(small, make_state, with_lora):
    twins, _ = small
    state = make_state("faceid")
    adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")))
    torch.manual_seed(3)
    x, text, pooled = torch.randn(1, 4, 8, 8) * SIGMA, torch.randn(1, 77, twins.context), torch.randn(1, 1280)
    face = torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
    model = apply_person(twins.model, Person(adapter, Features(face)))
    if with_lora:
        model = apply_lora(model, adapter.loras["face"], 1.0, "a")
    ours = predict(model, x, SIGMA, conditioning(text, pooled, height=64, width=64))
    twins.model.unpatch_model()
    with diffusers_adapters(twins, state):
        theirs = predict_with_images(twins, x, SIGMA, text, [face[:, None]], pooled)
    off = (ours - theirs).abs().max() / theirs.abs().max()
    assert off < 1e-4 if with_lora else off > 1e-2


DAMAGES = {
    "a missing half": (lambda lora: lora.pop("3.to_k_lora.up.weight"), r"3.to_k_lora.down.weight has no other half"),
    "the other half missing": (lambda lora: lora.pop("3.to_k_lora.down.weight"), "3.to_k_lora.up.weight has no other"),
    "another rank": (lambda lora: lora.update({"3.to_k_lora.up.weight": torch.ones(64, 3)}), r"3\.to_k_lora"),
    "another width": (lambda lora: lora.update({"2.to_q_lora.down.weight": torch.ones(4, 7)}), r"2\.to_q_lora\.down"),
    "one dimension": (lambda lora: lora.update({"2.to_q_lora.down.weight": torch.ones(4)}), r"2\.to_q_lora"),
    "no rank": (lambda lora: lora.update({"2.to_q_lora.down.weight": torch.ones(0, 64)}), r"2\.to_q_lora"),
    "an unknown attention": (lambda lora: lora.update({"999.to_q_lora.up.weight": torch.ones(4, 4)}), "no attention"),
    "an unknown part": (lambda lora: lora.update({"2.to_z_lora.up.weight": torch.ones(4, 4)}), "no attention"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("small", ["sd15"], indirect=True)
def test_a_damaged_lora(small, make_state, damage):
    """ComfyUI would skip such a layer without a message."""
    state = make_state("faceid")
    change, message = DAMAGES[damage]
    change(state["ip_adapter"])
    with pytest.raises(BadFile, match=f"a.bin: its LoRA's .*{message}"):
        import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")))


@pytest.mark.parametrize("small", ["sd15"], indirect=True)
def test_a_lora_of_zeros_counts_as_none(small, make_state):
    state = make_state("faceid")
    for key, value in state["ip_adapter"].items():
        if "_lora.up" in key:
            value.zero_()
    adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")))
    assert adapter.config.parts["face"].lora == 0 and not adapter.loras


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("small", ["sd15"], indirect=True)
def test_a_file_in_fp8(small, make_state, tmp_path, dtype):
    """It predicts what the same numbers in fp32 predict, LoRA included."""
    twins, _ = small
    state = make_state("faceid-plusv2")
    eighth = {key: value.to(dtype) for key, value in flat(state).items()}
    save_file(eighth, tmp_path / "fp8.safetensors")
    save_file({key: value.float() for key, value in eighth.items()}, tmp_path / "fp32.safetensors")
    torch.manual_seed(3)
    x, text = torch.randn(1, 4, 8, 8) * SIGMA, conditioning(torch.randn(1, 77, twins.context))
    face = torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
    shown, noises = Features(face, torch.randn(1, 5, 48)), []
    for name in ("fp8", "fp32"):
        adapter = load_any(tmp_path / f"{name}.safetensors", "faceid-plusv2")
        assert name == "fp32" or adapter.streams["face"].to_k[0].weight.dtype == dtype, "kept as it is"
        model = apply_lora(apply_person(twins.model, Person(adapter, shown)), adapter.loras["face"], 1.0, name)
        noises.append(predict(model, x, SIGMA, text))
        twins.model.unpatch_model()
    torch.testing.assert_close(*noises)
