"""IP-Adapter FaceID Portrait and Portrait-unnorm: 16 tokens of the recogniser's embedding, for several photos.

tencent-ailab/IP-Adapter, ip_adapter/ip_adapter_faceid_separate.py.
"""

from ..family import RAW, Family, Rule
from ..projectors import EmbeddingResampler, Identity, identity_tokens
from ..recipes import FaceEmbedding
from .faceid import FAMILY as FACEID
from .instantid import RULE as EMBEDDING_RESAMPLER

FAMILY = Family(
    key="faceid-portrait",
    name="FaceID Portrait",
    stream="face",
    rule=Rule(FACEID.rule.shapes, lambda state: identity_tokens(state) > 4),
    projector=Identity,
    recipe=FaceEmbedding(),
    files={"SD1.5": "ip-adapter-faceid-portrait-v11_sd15.bin", "SDXL": "ip-adapter-faceid-portrait_sdxl.bin"},
)

UNNORM = Family(
    key="faceid-portrait-unnorm",
    name="FaceID Portrait-unnorm",
    stream="face",
    rule=EMBEDDING_RESAMPLER,
    projector=EmbeddingResampler,
    recipe=FaceEmbedding(RAW),
    files={"SDXL": "ip-adapter-faceid-portrait_sdxl_unnorm.bin"},
    substitute="faceid-portrait",
    name_parts=("unnorm", "faceid-portrait"),
)
