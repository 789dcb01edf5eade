"""IP-Adapter FaceID Plus and PlusV2: the recogniser's embedding, and the vision tower's hidden states of the face.

tencent-ailab/IP-Adapter, ip_adapter/ip_adapter_faceid.py (`ProjPlusModel`). Both have the same keys and shapes; PlusV2
adds the tokens of the embedding (a shortcut).
"""

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from ...adapter.features import Features
from ...bases import base_for_text
from ..crops import aligned
from ..encoders import PENULTIMATE
from ..family import ALIGNED, NORMED, Family, FeaturePair, Rule, Sizes, State
from ..projectors import Identity, Perceiver, identity_tokens, within
from ..recipes import check_output, face_embeddings, negative_output, tower_of
from ..recognised import Recognised
from ..sources import Sources


class IdentityPlus(Identity):
    """The embedding's tokens attend to the face's hidden states."""

    def __init__(self, *sizes: int, perceiver: Perceiver):
        super().__init__(*sizes)
        self.perceiver_resampler = perceiver

    @classmethod
    def of(cls, state: State) -> "IdentityPlus":
        hidden, width = state["proj.0.weight"].shape
        perceiver = Perceiver.of(within(state, "perceiver_resampler."))
        return cls(width, hidden, identity_tokens(state), len(state["norm.weight"]), perceiver=perceiver)

    @staticmethod
    def sizes(state: State) -> Sizes:
        return replace(Identity.sizes(state), vision_width=state["perceiver_resampler.proj_in.weight"].shape[1])

    def forward(self, features: Features) -> Tensor:
        return self.perceiver_resampler(super().forward(features), features.states)


class IdentityPlusV2(IdentityPlus):
    """`IdentityPlus` with a shortcut: its tokens, weighted by `shortcut`, are added to the embedding's tokens."""

    def forward(self, features: Features) -> Tensor:
        tokens = Identity.forward(self, features)
        return tokens + features.shortcut * self.perceiver_resampler(tokens, features.states)


@dataclass(frozen=True)
class AlignedFace:
    """The normed embedding, and the tower's states of the aligned face; for the negative prompt, a zero embedding and
    the states of an empty picture or of `negative_image`.
    """

    picture = ALIGNED
    vision = PENULTIMATE
    embedding = NORMED
    empty = True

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        embedding, tower = face_embeddings(part, sources), tower_of(part, sources)
        crops = aligned(sources.faces, sources.image, base_for_text(part.layer_map.context).face_crop)
        shown = Features(embedding, check_output(tower.encode(crops), part).states, sources.shortcut)
        return shown, shown.empty(negative_output(part, sources).states)


RULE = Rule({"perceiver_resampler.proj_in.weight": (None, None)})
plus_family = partial(Family, stream="face", rule=RULE, recipe=AlignedFace())

FAMILY = plus_family(
    key="faceid-plus",
    name="FaceID Plus",
    projector=IdentityPlus,
    files={"SD1.5": "ip-adapter-faceid-plus_sd15.bin"},
    substitute="faceid-plusv2",
    name_parts=("faceid-plus", "faceidplus"),
)

V2 = plus_family(
    key="faceid-plusv2",
    name="FaceID PlusV2",
    projector=IdentityPlusV2,
    files={"SD1.5": "ip-adapter-faceid-plusv2_sd15.bin", "SDXL": "ip-adapter-faceid-plusv2_sdxl.bin"},
    substitute="pulid-flux",
    structure=True,
    name_parts=("plusv2", "plus-v2", "faceidplusv2"),
)
