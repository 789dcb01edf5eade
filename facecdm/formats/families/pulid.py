"""PuLID for SDXL (v1 and v1.1) and FLUX.1: antelopev2's raw embedding and EVA02-CLIP's view of the face.

Guo et al., "PuLID: Pure and Lightning ID Customization via Contrastive Alignment", 2024; ToTheBeginning/PuLID,
pulid/encoders.py (v1), pulid/encoders_transformer.py (v1.1, FLUX) and flux/model.py.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...adapter.features import Features
from ...errors import FaceCDMError, Mismatch
from ...tensor_file import count_numbered
from ..cell_layers import CellLayers
from ..encoders import FIVE
from ..eva import FILE as EVA_FILE
from ..family import ANTELOPE, RAW, UPRIGHT, Family, FeaturePair, Rule, Sizes, State
from ..projectors import HEAD, CrossAttentionBlock, feed_forward
from ..recipes import face_embeddings
from ..recognised import Recognised
from ..sources import Sources
from ..vision import FaceTower

VISION_WIDTH = 768  # of EVA02-CLIP-L-336's embedding
STATES = 5  # hidden states of the tower
IDENTITY_TOKENS = 5  # tokens of the identity vector
# Number of zero tokens beside the identity's, by projection: the modes "fidelity" and "extremely style" of app.py.
ZEROS, ZEROS_V1_1 = {"token_v2": 8, "token": 16}, {"token_v2": 20, "token": 20}


class IdentityEncoder(nn.Module):
    """PuLID v1: an identity vector [R, 1280] and five states [R, N, states_width] → tokens [R, 2 × 5, context].

    Five tokens come from the identity vector, and one from each of the five states: from its class token and the mean
    of its patches. The unconditional tokens are computed from zero inputs and are not zero themselves.
    """

    def __init__(self, width: int, states_width: int, context: int):
        super().__init__()
        self.context = context
        self.body = _stack(width, 1024, IDENTITY_TOKENS * context)
        for depth in range(STATES):
            setattr(self, f"mapping_{depth}", _stack(states_width, 1024, context))
            setattr(self, f"mapping_patch_{depth}", _stack(states_width, 1024, context))

    @classmethod
    def of(cls, state: State) -> "IdentityEncoder":
        context, states_width = state["mapping_0.6.weight"].shape[0], state["mapping_0.0.weight"].shape[1]
        return cls(state["body.0.weight"].shape[1], states_width, context)

    @staticmethod
    def sizes(state: State) -> Sizes:
        return _sizes(state, "body", IDENTITY_TOKENS + STATES)

    def forward(self, features: Features) -> Tensor:
        tokens = [self.body(features.embedding).unflatten(-1, (IDENTITY_TOKENS, self.context))]
        for depth, state in enumerate(features.states):
            whole, patches = getattr(self, f"mapping_{depth}"), getattr(self, f"mapping_patch_{depth}")
            tokens.append(whole(state[:, :1]) + patches(state[:, 1:]).mean(1, keepdim=True))
        return torch.cat(tokens, 1)


class IdentityFormer(nn.Module):
    """PuLID v1.1 and FLUX: the input of `IdentityEncoder` → tokens [R, 32, context].

    Learnt tokens, followed by five of the identity vector, attend to the identity and to each of the five states in
    turn, two layers per state.
    """

    def __init__(self, width: int, states_width: int, inner: int, count: int, depth: int, context: int):
        super().__init__()
        self.inner = inner
        self.latents = nn.Parameter(torch.zeros(1, count, inner))
        self.proj_out = nn.Parameter(torch.zeros(inner, context))
        self.layers = nn.ModuleList(
            nn.ModuleList([CrossAttentionBlock(inner, inner // HEAD), feed_forward(inner, 4 * inner)])
            for _ in range(depth)
        )
        for state in range(STATES):
            setattr(self, f"mapping_{state}", _stack(states_width, 1024, inner))
        self.id_embedding_mapping = _stack(width, 1024, IDENTITY_TOKENS * inner)

    @classmethod
    def of(cls, state: State) -> "IdentityFormer":
        return cls(
            state["id_embedding_mapping.0.weight"].shape[1],
            state["mapping_0.0.weight"].shape[1],
            state["latents"].shape[2],
            state["latents"].shape[1],
            count_numbered(state, "layers."),
            state["proj_out"].shape[1],
        )

    @staticmethod
    def sizes(state: State) -> Sizes:
        return _sizes(state, "id_embedding_mapping", state["latents"].shape[1])

    def forward(self, features: Features) -> Tensor:
        identity = self.id_embedding_mapping(features.embedding).unflatten(-1, (IDENTITY_TOKENS, self.inner))
        tokens = torch.cat([self.latents.expand(len(identity), -1, -1), identity], 1)
        each = len(self.layers) // STATES
        for depth, state in enumerate(features.states):
            states = torch.cat([identity, getattr(self, f"mapping_{depth}")(state)], 1)
            for attention, feed in self.layers[each * depth : each * (depth + 1)]:
                tokens = tokens + attention(tokens, states)
                tokens = tokens + feed(tokens)
        return tokens[:, : self.latents.shape[1]] @ self.proj_out


@dataclass(frozen=True)
class UprightFace:
    """The raw embedding, and the tower's output for the upright face; zeros of both for the negative prompt."""

    picture = UPRIGHT
    vision = FIVE
    embedding = RAW
    empty = True

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        embedding = face_embeddings(part, sources)
        if not isinstance(sources.clip_vision, FaceTower):
            raise Mismatch(
                f"PuLID encodes faces with {EVA_FILE}: connect clip_vision of Load FaceCDM Adapter, or Load EVA CLIP"
            )
        if sources.image is None:
            raise FaceCDMError(
                "PuLID encodes the faces in their pictures: connect the picture of Detect & Embed Faces to image"
            )
        pooled, states = sources.clip_vision.encode_faces(sources.faces, sources.image)
        shown = Features(identity_vector(embedding, pooled), states, sources.shortcut)
        return shown, shown.empty(tuple(torch.zeros_like(state) for state in states))


def identity_vector(embedding: Tensor, pooled: Tensor) -> Tensor:
    """Raw embedding [B, 512] and the tower's embedding [B, 768] of any length → the projector's input [B, 1280]."""
    return torch.cat([embedding, nn.functional.normalize(pooled.to(embedding), dim=-1)], -1)


def _sizes(state: State, mapping: str, tokens: int) -> Sizes:
    """The projector's sizes; `mapping` is the layer that reads the identity vector."""
    face_width = state[f"{mapping}.0.weight"].shape[1] - VISION_WIDTH
    return Sizes(tokens, face_width, state["mapping_0.0.weight"].shape[1])


def _stack(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, out),
    )


pulid_family = partial(Family, stream="face", recipe=UprightFace(), recogniser=ANTELOPE, identity_factor=1.2)
sdxl_family = partial(pulid_family, substitute="faceid-plusv2", projection="token_v2", kappa=1.0)

FAMILY = sdxl_family(
    key="pulid",
    name="PuLID",
    rule=Rule({"body.6.weight": (None, None), "mapping_patch_4.6.weight": (None, None)}),
    projector=IdentityEncoder,
    files={"SDXL": "ip-adapter_pulid_sdxl_fp16.safetensors"},
    renames=(  # of pulid_v1.bin
        (r"id_adapter\.", "image_proj."),
        (r"id_adapter_attn_layers\.", "ip_adapter."),
        (r"\.id_to_k\.", ".to_k_ip."),
        (r"\.id_to_v\.", ".to_v_ip."),
    ),
    zeros=ZEROS,
)

V1_1 = sdxl_family(
    key="pulid-v1.1",
    name="PuLID v1.1",
    rule=Rule({"latents": (1, None, None), "id_embedding_mapping.6.weight": (None, None)}),
    projector=IdentityFormer,
    files={"SDXL": "pulid_v1.1.safetensors"},
    zeros=ZEROS_V1_1,
)

FLUX = pulid_family(
    key="pulid-flux",
    name="PuLID-FLUX",
    rule=V1_1.rule,
    projector=IdentityFormer,
    layers=CellLayers(head=128, double=2, single=4),
    files={"Flux.1": "pulid_flux_v0.9.1.safetensors"},
    renames=((r"pulid_encoder\.", "image_proj."), (r"pulid_ca\.", "ip_adapter.")),
    substitute="pulid",
    strength=1.0,
)
