"""IP-Adapter and IP-Adapter light: the pooled embedding of the whole image.

Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter", 2023; tencent-ailab/IP-Adapter, ip_adapter/ip_adapter.py.
"""

from functools import partial

from torch import Tensor, nn

from ...adapter.features import Features
from ..encoders import POOLED
from ..family import Family, Rule, Sizes, State
from ..recipes import Pictures


class Pooled(nn.Module):
    """The pooled embedding through one linear layer."""

    def __init__(self, width: int, count: int, context: int):
        super().__init__()
        self.count = count
        self.proj = nn.Linear(width, count * context)
        self.norm = nn.LayerNorm(context)

    @classmethod
    def of(cls, state: State) -> "Pooled":
        sizes = cls.sizes(state)
        return cls(sizes.vision_width, sizes.tokens, len(state["norm.weight"]))

    @staticmethod
    def sizes(state: State) -> Sizes:
        out, width = state["proj.weight"].shape
        return Sizes(out // len(state["norm.weight"]), vision_width=width)

    def forward(self, features: Features) -> Tensor:
        return self.norm(self.proj(features.embedding).unflatten(-1, (self.count, -1)))


RULE = Rule({"proj.weight": (None, None), "norm.weight": (None,)})
pooled_family = partial(Family, stream="image", rule=RULE, projector=Pooled, recipe=Pictures(POOLED))

FAMILY = pooled_family(
    key="ip-adapter",
    name="IP-Adapter",
    files={"SD1.5": "ip-adapter_sd15.safetensors", "SDXL": "ip-adapter_sdxl_vit-h.safetensors"},
    strength=0.7,
    name_parts=("ip-adapter-sd15", "ip-adapter-sdxl"),
)

LIGHT = pooled_family(
    key="ip-adapter-light",
    name="IP-Adapter light",
    files={"SD1.5": "ip-adapter_sd15_light_v11.bin"},
    strength=1.0,
    name_parts=("adapter-light", "ipadapter-light", "sd15-light"),
)
