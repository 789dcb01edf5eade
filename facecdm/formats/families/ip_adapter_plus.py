"""IP-Adapter Plus, Plus-Face and Plus Composition: a resampler over the hidden states of a picture.

tencent-ailab/IP-Adapter, ip_adapter/resampler.py.
"""

from functools import partial

from ..family import FACE as FACE_PICTURE
from ..family import Family, Rule
from ..projectors import Resampler
from ..recipes import Pictures

RULE = Rule({"latents": (1, None, None), "proj_in.weight": (None, None)})
resampler_family = partial(Family, stream="image", rule=RULE, projector=Resampler)

FAMILY = resampler_family(
    key="ip-adapter-plus",
    name="IP-Adapter Plus",
    recipe=Pictures(),
    files={"SD1.5": "ip-adapter-plus_sd15.safetensors", "SDXL": "ip-adapter-plus_sdxl_vit-h.safetensors"},
    strength=0.7,
    identity_factor=1.2,
    name_parts=("adapter-plus",),
)

FACE = resampler_family(
    key="ip-adapter-plus-face",
    name="IP-Adapter Plus-Face",
    recipe=Pictures(picture=FACE_PICTURE),
    files={"SD1.5": "ip-adapter-plus-face_sd15.safetensors", "SDXL": "ip-adapter-plus-face_sdxl_vit-h.safetensors"},
    strength=0.7,
    name_parts=("plus-face", "plusface"),
)

COMPOSITION = resampler_family(
    key="ip-adapter-composition",
    name="IP-Adapter Plus Composition",
    recipe=Pictures(),
    files={"SD1.5": "ip_plus_composition_sd15.safetensors", "SDXL": "ip_plus_composition_sdxl.safetensors"},
    strength=1.0,
    name_parts=("plus-composition", "adapter-composition", "ip-composition"),
)
