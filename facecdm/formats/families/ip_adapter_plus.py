"""IP-Adapter Plus, Plus-Face and Plus Composition: a resampler over the hidden states of a picture.

tencent-ailab/IP-Adapter, ip_adapter/resampler.py.
"""

from ..family import FACE as FACE_PICTURE
from ..family import Family, Rule
from ..projectors import Resampler
from ..recipes import Pictures

RULE = Rule({"latents": (1, None, None), "proj_in.weight": (None, None)})

FAMILY = Family(
    key="ip-adapter-plus",
    name="IP-Adapter Plus",
    stream="image",
    rule=RULE,
    projector=Resampler,
    recipe=Pictures(),
    files={"SD1.5": "ip-adapter-plus_sd15.safetensors", "SDXL": "ip-adapter-plus_sdxl_vit-h.safetensors"},
    strength=0.7,
    identity_factor=1.2,
    name_parts=("adapter-plus",),
)

FACE = Family(
    key="ip-adapter-plus-face",
    name="IP-Adapter Plus-Face",
    stream="image",
    rule=RULE,
    projector=Resampler,
    recipe=Pictures(picture=FACE_PICTURE),
    files={"SD1.5": "ip-adapter-plus-face_sd15.safetensors", "SDXL": "ip-adapter-plus-face_sdxl_vit-h.safetensors"},
    strength=0.7,
    name_parts=("plus-face", "plusface"),
)

COMPOSITION = Family(
    key="ip-adapter-composition",
    name="IP-Adapter Plus Composition",
    stream="image",
    rule=RULE,
    projector=Resampler,
    recipe=Pictures(),
    files={"SD1.5": "ip_plus_composition_sd15.safetensors", "SDXL": "ip_plus_composition_sdxl.safetensors"},
    strength=1.0,
    name_parts=("plus-composition", "adapter-composition", "ip-composition"),
)
