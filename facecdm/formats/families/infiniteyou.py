"""InfiniteYou for FLUX.1: eight tokens of facexlib's ArcFace embedding, which InfuseNet reads in place of the text.

Jiang et al., "InfiniteYou: Flexible Photo Recrafting While Preserving Your Identity", 2025; bytedance/InfiniteYou,
pipelines/pipeline_infu_flux.py. InfuseNet is a ControlNet and acts on both prompts.
"""

from ..family import Family, Rule
from ..no_layers import NoLayers
from ..projectors import EmbeddingResampler
from ..recipes import FaceEmbedding

FAMILY = Family(
    key="infiniteyou",
    name="InfiniteYou",
    stream="face",
    rule=Rule({"latents": (1, None, None), "proj_in.weight": (None, 512), "norm_out.weight": (None,)}),
    projector=EmbeddingResampler,
    recipe=FaceEmbedding(empty=False),
    layers=NoLayers(),
    files={"Flux.1": "infiniteyou_aes_stage2.bin"},
    substitute="instantid",
    recogniser="arcface_ir_se50/recognition_arcface_ir_se50.pth",
    strength=1.0,
    note="It acts through its ControlNet, InfuseNet, alone: connect it to Apply FaceCDM to ControlNet",
)
