"""PuLID's vision tower against timm's, for which its authors' weights were also published."""

from pathlib import Path

import pytest
import timm.models.eva
import torch

from facecdm.errors import BadFile
from facecdm.formats.eva import EvaSizes, EvaTower, is_eva, load_eva, tower_state

SMALL = EvaSizes(image=84, patch=14, width=128, heads=2, hidden=170, depth=21, out=24)
FILE = Path("models/clip_vision/eva.pt")


def timm_tower(sizes: EvaSizes):
    """timm's own model with the settings of its eva02_large_patch14_clip_336."""
    return timm.models.eva.Eva(
        img_size=sizes.image,
        patch_size=sizes.patch,
        embed_dim=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_ratio=sizes.hidden / sizes.width,
        num_classes=sizes.out,
        global_pool="token",
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(sizes.rope, sizes.rope),
    ).eval()


@pytest.fixture(scope="module")
def oracle():
    torch.manual_seed(0)
    model = timm_tower(SMALL)
    for value in model.parameters():
        value.data.copy_(torch.randn_like(value) * 0.1)
    return model


def as_published(state: dict) -> dict:
    """timm's names → those of EVA-CLIP's own file, a whole CLIP that includes the rotary positions."""
    names = {
        "mlp.fc1_g": "mlp.w1",
        "mlp.fc1_x": "mlp.w2",
        "mlp.fc2": "mlp.w3",
        "mlp.norm": "mlp.ffn_ln",
        "attn.norm": "attn.inner_attn_ln",
        "attn.q_proj.bias": "attn.q_bias",
        "attn.v_proj.bias": "attn.v_bias",
    }
    published = {
        "text.positional_embedding": torch.zeros(1),
        "visual.rope.freqs_cos": torch.zeros(1),
        "visual.blocks.0.attn.rope.freqs_sin": torch.zeros(1),
    }
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        published["visual." + key] = value
    return published


@pytest.mark.parametrize("layout", [dict, as_published])
def test_output_equals_timms(oracle, layout):
    tower = load_eva(layout(oracle.state_dict()), FILE)
    assert tower.sizes == SMALL and not tower.training
    assert not any(weight.requires_grad for weight in tower.parameters())
    pictures = torch.randn(2, 3, 84, 84, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embedding, states = tower(pictures)
        theirs = oracle.forward_intermediates(
            pictures, indices=[3, 7, 11, 15, 19], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
        torch.testing.assert_close(embedding, oracle(pictures), rtol=1e-4, atol=1e-4)
    for own, (patches, prefix) in zip(states, theirs, strict=True):
        torch.testing.assert_close(own, torch.cat([prefix, patches], 1), rtol=1e-4, atol=1e-4)


def test_shapes_of_the_full_size_equal_timms():
    with torch.device("meta"):
        theirs = tower_state(timm.create_model("eva02_large_patch14_clip_336").state_dict())
        own = EvaTower().state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}
    assert own["blocks.23.mlp.w3.weight"].shape == (1024, 2730)


def test_another_kind_of_file():
    clip = {"vision_model.embeddings.class_embedding": torch.zeros(1)}
    assert not is_eva(clip)
    with pytest.raises(BadFile, match="EVA02_CLIP_L_336_psz14_s6B.pt.*models/clip_vision"):
        load_eva(clip, FILE)


def test_a_smaller_or_incomplete_tower(oracle):
    state = oracle.state_dict()
    with pytest.raises(BadFile, match="of 20 blocks.*of 24 blocks"):
        load_eva({key: value for key, value in state.items() if "blocks.20." not in key}, FILE)
    with pytest.raises(BadFile, match="incomplete.*head.bias"):
        load_eva({key: value for key, value in state.items() if key != "head.bias"}, FILE)
