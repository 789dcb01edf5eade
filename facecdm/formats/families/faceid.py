"""IP-Adapter FaceID: the recogniser's embedding, with a LoRA for the base model in the file.

tencent-ailab/IP-Adapter, ip_adapter/ip_adapter_faceid.py.
"""

from ..family import Family, Rule
from ..projectors import Identity
from ..recipes import FaceEmbedding

FAMILY = Family(
    key="faceid",
    name="FaceID",
    stream="face",
    rule=Rule({"proj.2.weight": (None, None), "norm.weight": (None,)}),
    projector=Identity,
    recipe=FaceEmbedding(),
    files={"SD1.5": "ip-adapter-faceid_sd15.bin", "SDXL": "ip-adapter-faceid_sdxl.bin"},
    identity_factor=1.5,
)
