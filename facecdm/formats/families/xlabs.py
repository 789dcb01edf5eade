"""XLabs' IP-Adapter for FLUX.1, v1 and v2: CLIP-L's pooled embedding in the double blocks.

XLabs-AI/x-flux, src/flux/modules/layers.py and xflux_pipeline.py. The black picture for the negative prompt is theirs.
"""

from functools import partial

from ...adapter.stream_module import BESIDE_BLOCK
from ..decoupled_layers import BlockKeys
from ..encoders import POOLED
from ..family import Family, Rule
from ..recipes import BLACK, Pictures
from .ip_adapter import RULE, Pooled

TOKENS = 4  # of v1

_family = partial(
    Family,
    stream="image",
    projector=Pooled,
    recipe=Pictures(POOLED, without_image=BLACK),
    layers=BlockKeys(("double",), BESIDE_BLOCK, bias=True),
    substitute="ip-adapter",
    note="this adapter reads the whole image and no face embedding: it carries content and style",
)

V1 = _family(
    key="xlabs",
    name="XLabs FLUX IP-Adapter",
    rule=Rule(RULE.shapes, lambda state: Pooled.sizes(state).tokens <= TOKENS),
    files={"Flux.1": "flux-ip-adapter.safetensors"},
    renames=(
        (r"^ip_adapter_proj_model\.", "image_proj."),
        (r"^double_blocks\.(\d+)\.processor\.ip_adapter_double_stream_([kv])_proj\.", r"ip_adapter.\1.to_\2_ip."),
    ),
    strength=0.9,
)

V2 = _family(
    key="xlabs-v2",
    name="XLabs FLUX IP-Adapter v2",
    rule=Rule(RULE.shapes),
    files={"Flux.1": "flux-ip-adapter-v2.safetensors"},
    strength=0.9,
)
