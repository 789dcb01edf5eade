"""Difference between UniPortrait and ConsistentID here and in their authors' code, which is fetched and not committed.

    python benchmarks/unet_authors.py --uniportrait DIR --consistentid DIR

DIR is a clone of junjiehe96/UniPortrait, or of JackAILab/ConsistentID (which needs einops and opencv). Random weights,
fp32. Tokens and CurricularFace's maps are compared at true widths; the attention, with its LoRA, is compared in a small
U-Net with the reference of the tests. It prints the largest differences as part of the largest value.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

import shared  # noqa: F401  # isort: skip  (makes facecdm and the tests' support importable)

STRENGTH, STRUCTURE = 0.7, 0.3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uniportrait", type=Path)
    parser.add_argument("--consistentid", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, float] = {}
    with torch.no_grad():
        for folder, compare in ((arguments.uniportrait, uniportrait), (arguments.consistentid, consistentid)):
            if folder:
                sys.path.insert(0, str(folder))
                found |= compare()
    for name, off in found.items():
        print(f"{name}: {off:.1e}")
    return 0 if max(found.values(), default=0.0) <= 1e-4 else 1


def uniportrait() -> dict[str, float]:
    from published import SD15
    from uniportrait.curricular_face.backbone import get_model
    from uniportrait.resampler import UniPortraitFaceIDResampler
    from uniportrait.uniportrait_attention_processor import (
        UniPortraitLoRAAttnProcessor2_0,
        UniPortraitLoRAIPAttnProcessor2_0,
        attn_args,
    )

    from facecdm.adapter.features import Features
    from facecdm.faces.curricular_face import CurricularFace

    ours, theirs = projectors("uniportrait", SD15, UniPortraitFaceIDResampler())
    states = torch.randn(1, 98, 512), torch.randn(1, 512, 1728)
    found = {
        "UniPortrait, tokens": off(ours(Features(states=states, shortcut=10 * STRUCTURE)), theirs(*states, STRUCTURE))
    }

    network, mine, face = get_model("IR_101")([112, 112]).eval(), CurricularFace().eval(), torch.rand(1, 3, 112, 112)
    mine.load_state_dict({key: network.state_dict()[key] for key in mine.state_dict()})
    maps = zip(mine(face), network(face, return_mid_feats=True)[1])
    found["UniPortrait, CurricularFace"] = max(off(*pair) for pair in maps)

    attn_args.reset()
    attn_args.lora_scale, attn_args.faceid_scale, attn_args.num_faceids = 1.0, STRENGTH, 1

    def processor(width: int, context: int | None):
        kind = UniPortraitLoRAIPAttnProcessor2_0 if context else UniPortraitLoRAAttnProcessor2_0
        return kind(hidden_size=width, cross_attention_dim=context, rank=4)

    # Between the text and the face stand four tokens of an image, which are not used.
    found["UniPortrait, attention"] = attention("uniportrait", 16, processor, 4, ("_ip.", "_faceid."))
    return found


def consistentid() -> dict[str, float]:
    from attention import Consistent_AttProcessor, Consistent_IPAttProcessor
    from functions import ProjPlusModel
    from published import SD15, SDXL

    from facecdm.adapter.features import Features

    found = {}
    for name, sizes in (("SD1.5", SD15), ("SDXL", SDXL)):
        model = ProjPlusModel(sizes.context, clip_embeddings_dim=1280)
        ours, theirs = projectors("consistentid", sizes, model)
        given = torch.randn(1, 512), torch.randn(1, 257, 1280)
        found[f"ConsistentID for {name}, tokens"] = off(ours(Features(*given)), theirs(*given))

    def processor(width: int, context: int | None):
        if context:
            return Consistent_IPAttProcessor(width, context, rank=4, scale=STRENGTH)
        return Consistent_AttProcessor(width, rank=4)

    found["ConsistentID, attention"] = attention("consistentid", 4, processor)
    return found


def projectors(family: str, sizes, theirs: torch.nn.Module) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our projector and `theirs` with the same weights."""
    from published import PROJECTORS, random_state

    from facecdm.formats.families import FAMILIES

    ignored = FAMILIES[family].ignored
    state = random_state({key: x for key, x in PROJECTORS[family](sizes).items() if not key.startswith(ignored)}, 0)
    ours = FAMILIES[family].projector.of(state)
    for one in (ours, theirs):
        one.load_state_dict(state)
    return ours, theirs


def attention(family: str, count: int, processor, unused: int = 0, rename: tuple[str, str] = ("", "")) -> float:
    """The difference in a small U-Net, of the tests' reference; `count` tokens follow `unused` ones."""
    from decoupled import reference_with_lora
    from diffusers import UNet2DConditionModel
    from published import SMALL, published_state

    from facecdm.bases.layers import Layer, LayerMap

    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=[32, 64, 128, 128], cross_attention_dim=SMALL.context, attention_head_dim=8
    ).eval()
    modules, before = dict(unet.named_modules()), unet.attn_processors
    widths = {name: modules[name.removesuffix(".processor")].to_q.in_features for name in before}
    layers = tuple(Layer("input", width, 8) for name, width in widths.items() if "attn2" in name)
    state = published_state(family, LayerMap(layers, SMALL.context), SMALL)["ip_adapter"]
    x, text, tokens = torch.randn(2, 4, 16, 16), torch.randn(2, 77, SMALL.context), torch.randn(2, count, SMALL.context)
    with reference_with_lora(SimpleNamespace(unet=unet), state, tokens, STRENGTH):
        ours = unet(x, 500, text).sample
    theirs = {}
    for number, (name, width) in enumerate(widths.items()):
        theirs[name] = processor(width, SMALL.context if "attn2" in name else None)
        own = {key.partition(".")[2]: value for key, value in state.items() if key.partition(".")[0] == str(number)}
        theirs[name].load_state_dict({key.replace(*rename): value for key, value in own.items()}, strict=False)
    unet.set_attn_processor(theirs)
    return off(ours, unet(x, 500, torch.cat([text, text.new_zeros(2, unused, SMALL.context), tokens], 1)).sample)


def off(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


if __name__ == "__main__":
    sys.exit(main())
