"""InstantID: a resampler over antelopev2's raw embedding. Its ControlNet reads the same tokens (formats/tokens.py).

Wang et al., "InstantID: Zero-shot Identity-Preserving Generation in Seconds", 2024; InstantX/InstantID.
"""

from ..family import ANTELOPE, RAW, Family, Rule
from ..projectors import EmbeddingResampler
from ..recipes import FaceEmbedding

RULE = Rule({"latents": (1, None, None), "proj_in.weight": (None, 512)})

FAMILY = Family(
    key="instantid",
    name="InstantID",
    stream="face",
    rule=RULE,
    projector=EmbeddingResampler,
    recipe=FaceEmbedding(RAW),
    files={"SDXL": "instantid/ip-adapter.bin"},
    substitute="faceid-plusv2",
    recogniser=ANTELOPE,
    prompt_factor=0.4,
    identity_factor=1.1,
    name_parts=("instantid", "instant-id"),
)
