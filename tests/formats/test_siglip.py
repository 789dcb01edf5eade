"""SigLIP's pooling, which core's towers leave out, against transformers; and the towers that have it."""

import json
from types import SimpleNamespace

import pytest
import torch

from facecdm.errors import Mismatch
from facecdm.formats.families import FAMILIES
from facecdm.formats.siglip import PoolingHead
from facecdm.formats.vision import VisionOutput

SIZE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=28)


@pytest.fixture(scope="module")
def theirs():
    """A small SigLIP tower of transformers."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    model = SiglipVisionModel(SiglipVisionConfig(**SIZE, patch_size=14)).eval().requires_grad_(False)
    for value in model.parameters():
        value.copy_(torch.randn_like(value) * (value.shape[-1] ** -0.5 if value.ndim > 1 else 0.3))
    return model


def tensors(model) -> dict:
    """As in a published file, with one of the text tower's."""
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in model.state_dict().items()}
    return state | {"text_model.head.weight": torch.zeros(1)}


def test_the_pooled_embedding_is_transformers(in_comfy, theirs, tmp_path):
    """From core's tower on the same weights: the last states, pooled by the head."""
    from comfy.clip_vision import ClipVisionModel

    from facecdm.hosts.comfy.siglip import PooledSiglip

    config = tmp_path / "config.json"
    more = dict(hidden_act="gelu_pytorch_tanh", model_type="siglip_vision_model", num_channels=3, patch_size=14)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    config.write_text(json.dumps(SIZE | more | half), encoding="utf-8")
    core = ClipVisionModel(str(config))
    core.load_sd(tensors(theirs))
    pictures = torch.rand(2, 28, 28, 3, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    head = PoolingHead.of(tensors(theirs), heads=4)
    tower = PooledSiglip(core, head)
    wanted = theirs(pixel_values=(pictures.movedim(-1, 1) - 0.5) / 0.5, output_hidden_states=True)
    output = tower.encode_image(pictures)
    penultimate = wanted.hidden_states[-2]  # as diffusers gives it to InstantX's IP-Adapter for SD3.5
    torch.testing.assert_close(output.penultimate_hidden_states, penultimate, rtol=0, atol=5e-3)
    torch.testing.assert_close(head(wanted.last_hidden_state), wanted.pooler_output, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.image_embeds, wanted.pooler_output, rtol=0, atol=5e-3)  # core's is in half
    assert core.encode_image(pictures).image_embeds.shape == (2, 4, 32), "core's are the states of all patches"
    assert tower.image_size == 28


def test_a_tower_without_pooling_is_refused():
    from facecdm.formats.recipes import check_output

    part = SimpleNamespace(family=FAMILIES["instantx-flux"])
    with pytest.raises(Mismatch, match="leaves out SigLIP's pooling.*connect clip_vision of Load FaceCDM Adapter"):
        check_output(VisionOutput(torch.zeros(1, 729, 1152), torch.zeros(1, 729, 1152)), part)
