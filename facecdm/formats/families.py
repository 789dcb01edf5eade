"""The published families of decoupled-attention adapters: what tells each apart, and what each wants to see."""

from collections.abc import Callable
from dataclasses import dataclass, field

from . import projectors
from .eva import FILE as EVA_FILE
from .pulid import NOTHING, NOTHING_V11, IdentityEncoder, IdentityFormer

# What a family looks at with a CLIP vision tower.
WHOLE, FACE, ALIGNED = "the whole image", "a picture of the face", "the aligned face"
UPRIGHT = "the face in its picture, grey on white,"
# What of the tower's answer it reads.
POOLED, PENULTIMATE, FIVE = "pooled", "penultimate", "five states and pooled"
# What states the negative prompt's tokens are made of.
EMPTY, ZEROS = "empty picture", "zeros"
# What of the recogniser's embedding it reads.
NORMED, RAW = "normed", "raw"


@dataclass(frozen=True)
class Family:
    """`name` is what a person reads, `key` what metadata, exports and choices say.

    stream     face (it reads a recogniser's embedding) or image (it reads pictures alone)
    picture    what its vision tower looks at, or "" without one; `vision` is what it reads of the answer
    embedding  normed or raw, or "" where no recogniser is asked; `recogniser` is the file that it was trained with
    negative   what the rows of the negative prompt see: tokens of a zero embedding and of the states of an "empty
               picture" (normalised pixels of zero), or of states that are "zeros", too
    projector  the class that makes its tokens (formats.projectors)
    projection, kappa, zeros   how its stream meets the text's (adapter.person.Stream); zeros by projection
    begin      the strength to begin with
    prompt, likeness           what `strength` becomes at the two ends of the balance between prompt and likeness
    keep       κ at the prompt's end of the balance
    words      whole words of a file's name that speak for it where its content cannot tell, each with "-" between its
               parts; of families that a file may be the first is asked last, since the others' names may hold its own
    note       what else its user must know
    """

    key: str
    name: str
    stream: str
    projector: type
    picture: str = ""
    vision: str = ""
    embedding: str = ""
    recogniser: str = "buffalo_l/w600k_r50.onnx"
    negative: str = EMPTY
    projection: str = "feature"
    kappa: float = 0.0
    zeros: dict[str, int] = field(default_factory=dict)
    begin: float = 0.8
    prompt: float = 0.5
    likeness: float = 1.3
    keep: float = 0.5
    words: tuple[str, ...] = ()
    note: str = ""

    @property
    def reads(self) -> str:
        """What to connect, in words."""
        parts = [f"a face's embedding ({self.embedding})"] if self.embedding else []
        return " and ".join(parts + ([f"{self.picture} through CLIP vision ({self.vision})"] if self.picture else []))


FAMILIES = {
    family.key: family
    for family in (
        Family(
            "ip-adapter",
            "IP-Adapter",
            "image",
            projectors.Pooled,
            WHOLE,
            POOLED,
            begin=0.7,
            words=("ip-adapter-sd15", "ip-adapter-sdxl"),
        ),
        Family(
            "ip-adapter-light",
            "IP-Adapter light",
            "image",
            projectors.Pooled,
            WHOLE,
            POOLED,
            begin=1.0,
            words=("adapter-light", "ipadapter-light", "sd15-light"),
        ),
        Family(
            "ip-adapter-plus",
            "IP-Adapter Plus",
            "image",
            projectors.Resampler,
            WHOLE,
            PENULTIMATE,
            begin=0.7,
            likeness=1.2,
            words=("adapter-plus",),
        ),
        Family(
            "ip-adapter-plus-face",
            "IP-Adapter Plus-Face",
            "image",
            projectors.Resampler,
            FACE,
            PENULTIMATE,
            begin=0.7,
            words=("plus-face", "plusface"),
        ),
        Family(
            "ip-adapter-composition",
            "IP-Adapter Plus Composition",
            "image",
            projectors.Resampler,
            WHOLE,
            PENULTIMATE,
            begin=1.0,
            words=("plus-composition", "adapter-composition", "ip-composition"),
        ),
        Family(
            "ip-adapter-full-face", "IP-Adapter Full-Face", "image", projectors.EveryState, FACE, PENULTIMATE, begin=0.6
        ),
        Family("faceid", "FaceID", "face", projectors.Identity, embedding=NORMED, likeness=1.5),
        Family(
            "faceid-plus",
            "FaceID Plus",
            "face",
            projectors.IdentityPlus,
            ALIGNED,
            PENULTIMATE,
            NORMED,
            words=("faceid-plus", "faceidplus"),
        ),
        Family(
            "faceid-plusv2",
            "FaceID PlusV2",
            "face",
            projectors.IdentityPlusV2,
            ALIGNED,
            PENULTIMATE,
            NORMED,
            words=("plusv2", "plus-v2", "faceidplusv2"),
        ),
        Family("faceid-portrait", "FaceID Portrait", "face", projectors.Identity, embedding=NORMED),
        Family(
            "faceid-portrait-unnorm",
            "FaceID Portrait-unnorm",
            "face",
            projectors.Resampler,
            embedding=RAW,
            words=("unnorm", "faceid-portrait"),
        ),
        Family(
            "instantid",
            "InstantID",
            "face",
            projectors.Resampler,
            embedding=RAW,
            recogniser="antelopev2/glintr100.onnx",
            prompt=0.4,
            likeness=1.1,
            words=("instantid", "instant-id"),
        ),
        Family(
            "pulid",
            "PuLID",
            "face",
            IdentityEncoder,
            UPRIGHT,
            FIVE,
            RAW,
            "antelopev2/glintr100.onnx",
            ZEROS,
            projection="token_v2",
            kappa=1.0,
            zeros=NOTHING,
            likeness=1.2,
        ),
        Family(
            "pulid-v1.1",
            "PuLID v1.1",
            "face",
            IdentityFormer,
            UPRIGHT,
            FIVE,
            RAW,
            "antelopev2/glintr100.onnx",
            ZEROS,
            projection="token_v2",
            kappa=1.0,
            zeros=NOTHING_V11,
            likeness=1.2,
        ),
        Family(
            "kolors-plus",
            "Kolors IP-Adapter Plus",
            "image",
            projectors.Resampler,
            WHOLE,
            PENULTIMATE,
            begin=0.7,
            note="trained on Kolors' U-Net, which has SDXL's layers: connect that, not another SDXL model",
        ),
    )
}

# The file of a family, or of its next of kin, for SD1.5 and for SDXL.
FILES = {
    "ip-adapter": ("ip-adapter_sd15.safetensors", "ip-adapter_sdxl_vit-h.safetensors"),
    "ip-adapter-light": ("ip-adapter_sd15_light_v11.bin", ""),
    "ip-adapter-plus": ("ip-adapter-plus_sd15.safetensors", "ip-adapter-plus_sdxl_vit-h.safetensors"),
    "ip-adapter-plus-face": ("ip-adapter-plus-face_sd15.safetensors", "ip-adapter-plus-face_sdxl_vit-h.safetensors"),
    "ip-adapter-composition": ("ip_plus_composition_sd15.safetensors", "ip_plus_composition_sdxl.safetensors"),
    "ip-adapter-full-face": ("ip-adapter-full-face_sd15.safetensors", "ip-adapter-plus-face_sdxl_vit-h.safetensors"),
    "faceid": ("ip-adapter-faceid_sd15.bin", "ip-adapter-faceid_sdxl.bin"),
    "faceid-plus": ("ip-adapter-faceid-plus_sd15.bin", "ip-adapter-faceid-plusv2_sdxl.bin"),
    "faceid-plusv2": ("ip-adapter-faceid-plusv2_sd15.bin", "ip-adapter-faceid-plusv2_sdxl.bin"),
    "faceid-portrait": ("ip-adapter-faceid-portrait-v11_sd15.bin", "ip-adapter-faceid-portrait_sdxl.bin"),
    "faceid-portrait-unnorm": ("ip-adapter-faceid-portrait-v11_sd15.bin", "ip-adapter-faceid-portrait_sdxl_unnorm.bin"),
    "instantid": ("ip-adapter-faceid-plusv2_sd15.bin", "InstantID's ip-adapter.bin"),
    "pulid-v1.1": ("ip-adapter-faceid-plusv2_sd15.bin", "pulid_v1.1.safetensors"),
    "pulid": ("ip-adapter-faceid-plusv2_sd15.bin", "ip-adapter_pulid_sdxl_fp16.safetensors"),
}

# Which families a state dict of a projector may be: the first that fits decides, and the first name is the default.
# `keys` maps a key to the shape it must have (None: any size).
Rule = tuple[dict[str, tuple], Callable[[dict], bool], tuple[str, ...]]


def _any(state: dict) -> bool:
    return True


RULES: list[Rule] = [
    ({"latents": (1, None, 2048)}, _any, ("kolors-plus",)),
    ({"body.6.weight": (None, None), "mapping_patch_4.6.weight": (None, None)}, _any, ("pulid",)),
    ({"latents": (1, None, None), "id_embedding_mapping.6.weight": (None, None)}, _any, ("pulid-v1.1",)),
    ({"latents": (1, None, None), "proj_in.weight": (None, 512)}, _any, ("instantid", "faceid-portrait-unnorm")),
    (
        {"latents": (1, None, None), "proj_in.weight": (None, None)},
        _any,
        ("ip-adapter-plus", "ip-adapter-plus-face", "ip-adapter-composition"),
    ),
    ({"proj.3.weight": (None,)}, _any, ("ip-adapter-full-face",)),
    ({"perceiver_resampler.proj_in.weight": (None, None)}, _any, ("faceid-plus", "faceid-plusv2")),
    (
        {"proj.2.weight": (None, None), "norm.weight": (None,)},
        lambda state: len(state["proj.2.weight"]) // len(state["norm.weight"]) > 4,
        ("faceid-portrait",),
    ),
    ({"proj.2.weight": (None, None), "norm.weight": (None,)}, _any, ("faceid",)),
    ({"proj.weight": (None, None), "norm.weight": (None,)}, _any, ("ip-adapter", "ip-adapter-light")),
]


@dataclass(frozen=True)
class Encoder:
    """A CLIP vision tower: features of its states and of its pooled embedding, and the file to get."""

    name: str
    states: int
    pooled: int
    file: str


ENCODERS = (
    Encoder("ViT-H", 1280, 1024, "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"),
    Encoder("ViT-bigG", 1664, 1280, "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors"),
    Encoder("ViT-L", 1024, 768, "clip-vit-large-patch14-336.safetensors"),
)
EVA = Encoder("EVA02-CLIP-L-336", 1024, 768, EVA_FILE)


def encoder_for(vision: str, width: int) -> Encoder | None:
    """The tower whose answer has so many features, or None where it is none of the known."""
    if vision == FIVE:
        return EVA
    return next((e for e in ENCODERS if (e.pooled if vision == POOLED else e.states) == width), None)


def file_for(family: str, base: str) -> str:
    """The published file of a family (or its next of kin) for a base, or "" where there is none."""
    return FILES.get(family, ("", ""))[("SD1.5", "SDXL").index(base)] if base in ("SD1.5", "SDXL") else ""
