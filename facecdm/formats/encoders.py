"""The vision towers that the published families were trained with."""

from dataclasses import dataclass

from .eva import FILE as EVA_FILE

# The parts of a tower's output that a family may read.
POOLED, PENULTIMATE, LAST, FIVE = "pooled", "penultimate", "last states", "five states and pooled"


@dataclass(frozen=True)
class Encoder:
    """A CLIP vision tower.

    states     features of its hidden states
    pooled     features of its pooled embedding
    file       the published file's name
    positions  number of patches of a picture, plus one for a class token
    """

    name: str
    states: int
    pooled: int
    file: str
    positions: int = 257


ENCODERS = (
    Encoder("ViT-H", 1280, 1024, "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
    Encoder("ViT-bigG", 1664, 1280, "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors"),
    Encoder("ViT-L", 1024, 768, "clip-vit-large-patch14-336.bin", 577),
)
CLIP_L = Encoder("ViT-L-224", 1024, 768, "clip-vit-large-patch14.safetensors")
SIGLIP = Encoder("SigLIP-base-256", 768, 768, "siglip-base-patch16-256-i18n.safetensors", 256)
SIGLIP_SO400M = Encoder("SigLIP-so400m-384", 1152, 1152, "sigclip_vision_patch14_384.safetensors", 729)
EVA = Encoder("EVA02-CLIP-L-336", 1024, 768, EVA_FILE, 577)


def encoder_for(vision: str, width: int) -> Encoder | None:
    """The tower whose output `vision` has `width` features; None if it is not a known one."""
    if vision == FIVE:
        return EVA
    if vision == LAST:
        return SIGLIP if width == SIGLIP.states else None
    if vision == POOLED:
        return next((e for e in (CLIP_L, *ENCODERS, SIGLIP_SO400M) if e.pooled == width), None)
    return next((e for e in (*ENCODERS, SIGLIP_SO400M) if e.states == width), None)


def encoder_of(pooled: int, states: int) -> Encoder | None:
    """The tower with these widths; None if it is not a known one."""
    return next((e for e in (*ENCODERS, SIGLIP, SIGLIP_SO400M) if (e.pooled, e.states) == (pooled, states)), None)
