"""Published files that are recognised and refused, with the reason."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..family import Rule


@dataclass(frozen=True)
class Refused:
    """An adapter whose projector matches `rule`."""

    name: str
    rule: Rule
    reason: str


@dataclass(frozen=True)
class OtherMethod:
    """A file of another method, which has no projector with layers.

    mark      regular expression that finds one of its keys
    sentence  completes "FILE is …"
    """

    mark: str
    sentence: str


REFUSED = (
    Refused(
        "FaceID Plus for Kolors",
        Rule({"perceiver_resampler.layers.0.0.to_out.weight": (4096, None)}),
        "Its tokens pass through the text projection of Kolors' own U-Net, which core ComfyUI does not load; use an "
        "adapter for SDXL (ip-adapter-faceid-plusv2_sdxl.bin).",
    ),
)

OTHER_METHODS = (
    OtherMethod(
        r"(^|\.)double_ca\.",
        "PuLID for FLUX.2, which passes hidden states of other widths through projections with random weights "
        "(use pulid_flux_v0.9.1.safetensors with FLUX.1)",
    ),
    OtherMethod(
        r"\.to_[qk]_router\.|_multi_id_lora\.",
        "UniPortrait's router, which assigns each position of the picture to one of several people (load "
        "uniportrait-faceid_sd15.bin instead, and give each person a mask)",
    ),
    OtherMethod(
        r"qformer_perceiver\.",
        "PhotoMaker v2, which replaces a word of the prompt and adds no tokens to the attention (use a node pack for "
        "PhotoMaker v2, or ip-adapter-faceid-plusv2_sdxl.bin here)",
    ),
    OtherMethod(
        r"(^|\.)fuse_module\.mlp1\.",
        "PhotoMaker, which replaces a word of the prompt and adds no tokens to the attention (put it into "
        "models/photomaker and use core's PhotoMakerLoader and PhotoMakerEncode, or ip-adapter-faceid-plusv2_sdxl.bin "
        "here)",
    ),
    OtherMethod(
        r"id_(up|down)_basis$",
        "HyperLoRA, which computes a LoRA from a face (use the nodes of ComfyUI-HyperLoRA; the LoRA that they save "
        "works with core's Load LoRA)",
    ),
    OtherMethod(
        r"^layers\.\d+\.norm_attn2_[lx]\.",
        "HyperLoRA's resampler, a part of a method that computes a LoRA from a face (use the nodes of "
        "ComfyUI-HyperLoRA; the LoRA that they save works with core's Load LoRA)",
    ),
)


def other_method(keys: Iterable[str]) -> str:
    """The sentence about a file of another method; "" for other files. ConsistentID's FacialEncoder has PhotoMaker's
    module, so only keys outside its adapter count.
    """
    keys = [key for key in keys if not key.startswith("image_proj.")]
    return next((one.sentence for one in OTHER_METHODS if any(re.search(one.mark, key) for key in keys)), "")
