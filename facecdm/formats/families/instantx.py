"""InstantX's IP-Adapter for FLUX.1-dev: SigLIP's pooled embedding in all blocks.

InstantX/FLUX.1-dev-IP-Adapter; Shakker-Labs/ComfyUI-IPAdapter-Flux, ipadapter_flux.py and attention_processor.py.
"""

from ...adapter.stream_module import IN_ATTENTION
from ..decoupled_layers import BlockKeys
from ..encoders import POOLED
from ..family import Family, Rule, Sizes, State
from ..projectors import Identity, identity_tokens
from ..recipes import NOTHING, Pictures


class PooledMlp(Identity):
    """The pooled embedding through two linear layers."""

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(identity_tokens(state), vision_width=state["proj.0.weight"].shape[1])


FAMILY = Family(
    key="instantx-flux",
    name="InstantX FLUX.1-dev IP-Adapter",
    stream="image",
    rule=Rule({"proj.0.weight": (None, None), "proj.2.weight": (None, None), "norm.weight": (None,)}),
    projector=PooledMlp,
    recipe=Pictures(POOLED, without_image=NOTHING),
    layers=BlockKeys(("double", "single"), IN_ATTENTION, normalise=True),
    files={"Flux.1": "instantx-flux-ip-adapter.bin"},
    substitute="ip-adapter",
    strength=0.7,
    note="this adapter reads the whole image and no face embedding: it carries content and style",
)
