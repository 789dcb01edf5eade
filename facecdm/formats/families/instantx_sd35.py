"""InstantX's IP-Adapter for SD3.5 Large: SigLIP's states in all blocks, through a resampler that reads the timestep.

InstantX/SD3.5-Large-IP-Adapter; huggingface/diffusers, SD3Transformer2DLoadersMixin and SD3IPAdapterMixin. The zero
states for the negative prompt are diffusers'.
"""

from ..encoders import PENULTIMATE
from ..family import Family, Rule
from ..joint_layers import JointKeys
from ..recipes import ZEROS, Pictures
from ..time_resampler import States

FAMILY = Family(
    key="instantx-sd35",
    name="InstantX SD3.5-Large IP-Adapter",
    stream="image",
    rule=Rule({"latents": (1, None, None), "time_embedding.linear_1.weight": (None, None)}),
    projector=States,
    recipe=Pictures(PENULTIMATE, without_image=ZEROS),
    layers=JointKeys(),
    files={"SD3.5 Large": "instantx-sd35-large-ip-adapter.bin"},
    substitute="ip-adapter-plus",
    strength=0.5,
    note="this adapter reads the whole image and no face embedding: it carries content and style",
)
