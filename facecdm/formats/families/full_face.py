"""IP-Adapter Full-Face: every hidden state of a picture of the face becomes a token.

tencent-ailab/IP-Adapter, ip_adapter/ip_adapter.py (`MLPProjModel`).
"""

from torch import Tensor, nn

from ...adapter.features import Features
from ..family import FACE, Family, Rule, Sizes, State
from ..recipes import Pictures

STATES = 257  # of ViT-H: the class token and 16 × 16 patches


class EveryState(nn.Module):
    """Every hidden state through two linear layers."""

    def __init__(self, width: int, hidden: int, context: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, context), nn.LayerNorm(context)
        )

    @classmethod
    def of(cls, state: State) -> "EveryState":
        hidden, width = state["proj.0.weight"].shape
        return cls(width, hidden, state["proj.2.weight"].shape[0])

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(STATES, vision_width=state["proj.0.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        return self.proj(features.states)


FAMILY = Family(
    key="ip-adapter-full-face",
    name="IP-Adapter Full-Face",
    stream="image",
    rule=Rule({"proj.3.weight": (None,)}),
    projector=EveryState,
    recipe=Pictures(picture=FACE),
    files={"SD1.5": "ip-adapter-full-face_sd15.safetensors"},
    substitute="ip-adapter-plus-face",
    strength=0.6,
)
