"""The LoRA inside a FaceID file does in ComfyUI what it does in diffusers."""

from pathlib import Path

import pytest
import torch
from oracle import diffusers_adapters, predict_with_images
from twins import conditioning, predict

from facecdm.adapter.features import Features
from facecdm.adapter.person import Person
from facecdm.formats.imported import import_adapter
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
