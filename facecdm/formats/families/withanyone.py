"""WithAnyone for FLUX.1: antelopev2's raw embedding in one stream, and SigLIP's view of the face in another.

Xu et al., "WithAnyone: Towards Controllable and ID-Consistent Image Generation", 2025; Doby-Xu/WithAnyone,
withanyone/flux/model.py. One file holds both streams.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...adapter.features import Features
from ...errors import Mismatch
from ..cell_layers import CellLayers
from ..crops import squares
from ..encoders import LAST
from ..encoders import SIGLIP as TOWER
from ..family import ANTELOPE, BOX, RAW, Family, FeaturePair, Rule, Sizes, State
from ..recipes import FaceEmbedding, check_output, face_embeddings, tower_of
from ..recognised import Recognised
from ..sources import Sources

TOKENS = 8  # of the embedding


class Embedding(nn.Module):
    """The recogniser's embedding [R, width] → eight tokens [R, 8, context]."""

    def __init__(self, width: int, hidden: int, context: int):
        super().__init__()
        self.arcface = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, TOKENS * context)
        )

    @classmethod
    def of(cls, state: State) -> "Embedding":
        return cls(*_embedding_sizes(state))

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(TOKENS, face_width=state["arcface.0.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        return self.arcface(features.embedding).unflatten(-1, (TOKENS, -1))


class EmbeddingAndStates(Embedding):
    """SigLIP's states [R, 256, states_width], a token each, followed by the embedding's tokens."""

    def __init__(self, width: int, hidden: int, context: int, states_width: int):
        super().__init__(width, hidden, context)
        self.siglip = nn.Sequential(
            nn.Linear(states_width, context), nn.GELU(), nn.LayerNorm(context), nn.Linear(context, context)
        )

    @classmethod
    def of(cls, state: State) -> "EmbeddingAndStates":
        return cls(*_embedding_sizes(state), state["siglip.0.weight"].shape[1])

    @staticmethod
    def sizes(state: State) -> Sizes:
        vision_width = state["siglip.0.weight"].shape[1]
        return Sizes(TOWER.positions + TOKENS, state["arcface.0.weight"].shape[1], vision_width)

    def forward(self, features: Features) -> Tensor:
        return torch.cat([self.siglip(features.states), super().forward(features)], 1)


def _embedding_sizes(state: State) -> tuple[int, int, int]:
    hidden, width = state["arcface.0.weight"].shape
    return width, hidden, state["arcface.3.weight"].shape[0] // TOKENS


@dataclass(frozen=True)
class FaceInBox:
    """The raw embedding, and the last states of the square around the face; nothing for the negative prompt."""

    picture = BOX
    vision = LAST
    embedding = RAW
    empty = False

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        embedding, output = face_embeddings(part, sources), sources.encoded
        if output is None:
            output = tower_of(part, sources).encode(squares(sources.faces, sources.image, part.family.name))
        states = check_output(output, part).last
        if len(states) not in (1, len(embedding)):
            raise Mismatch(
                f"clip_vision_output has {len(states)} pictures and faces has {len(embedding)}: encode one picture for "
                "each face"
            )
        return Features(embedding, states), None


_RENAMES = (
    (r"arcface_in_arc\.", "image_proj.arc.arcface."),
    (r"arcface_in_sig\.", "image_proj.sig.arcface."),
    (r"siglip_in_sig\.", "image_proj.sig.siglip."),
    (r"ipa_arc\.", "ip_adapter.arc."),
    (r"ipa_sig\.", "ip_adapter.sig."),
)
_FILES = {"Flux.1": "withanyone.safetensors"}

FAMILY = Family(
    key="withanyone",
    name="WithAnyone",
    stream="face",
    rule=Rule({"arcface.0.weight": (None, None)}, lambda state: "siglip.0.weight" not in state),
    projector=Embedding,
    recipe=FaceEmbedding(embedding=RAW, empty=False),
    layers=CellLayers(head=64),
    part="arc",
    files=_FILES,
    renames=_RENAMES,
    substitute="pulid",
    recogniser=ANTELOPE,
    strength=1.0,
    boxed=True,
    note="Connect a mask over the face's place: it was trained with a box for each face",
)

SIGLIP = Family(
    key="withanyone-siglip",
    name="WithAnyone SigLIP",
    stream="image",
    rule=Rule({"siglip.0.weight": (None, None), "arcface.0.weight": (None, None)}),
    projector=EmbeddingAndStates,
    recipe=FaceInBox(),
    layers=CellLayers(head=64),
    part="sig",
    files=_FILES,
    substitute="ip-adapter-plus-face",
    recogniser=ANTELOPE,
    strength=1.0,
)
