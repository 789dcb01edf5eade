"""UniPortrait: 16 tokens of CurricularFace's feature maps and of the vision tower's states of the aligned face.

He et al., "UniPortrait: A Unified Framework for Identity-Preserving Single- and Multi-Human Image Personalization",
2024; junjiehe96/UniPortrait, uniportrait/{resampler,uniportrait_pipeline,uniportrait_attention_processor}.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...adapter.features import Features
from ...adapter.references import MEAN
from ...errors import Mismatch
from ...faces.curricular_face import FILE, STRUCTURE
from ...tensor_file import count_numbered
from ..crops import aligned
from ..encoders import PENULTIMATE
from ..family import ALIGNED, FULL_LORA, Family, FeaturePair, Rule, Sizes, State
from ..projectors import CrossAttentionBlock, feed_forward, heads_of
from ..recipes import check_output, negative_output, required_faces, tower_of
from ..recognised import Recognised
from ..sources import Sources
from ..vision import FaceStatesTower

CROP = 224  # side of the aligned face
STRUCTURE_WEIGHT = 0.1  # the authors' weight of the structure, at `shortcut` 1


class FaceIdResampler(nn.Module):
    """Learnt tokens attend to the identity [R, N, 512] and to the structure [R, M, 448 + vision width] in turn."""

    def __init__(self, identity: int, structure: int, width: int, heads: int, depth: int, count: int, out: int):
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, count, width))
        self.proj_id = _stack(identity, width)
        self.proj_clip = _stack(structure, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [CrossAttentionBlock(width, heads), CrossAttentionBlock(width, heads), feed_forward(width, 4 * width)]
            )
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, out)
        self.norm_out = nn.LayerNorm(out)

    @classmethod
    def of(cls, state: State) -> "FaceIdResampler":
        _, count, width = state["latents"].shape
        identity, structure = (state[f"{name}.0.weight"].shape[1] for name in ("proj_id", "proj_clip"))
        heads, depth = heads_of(state["layers.0.0.to_q.weight"]), count_numbered(state, "layers.")
        return cls(identity, structure, width, heads, depth, count, state["proj_out.weight"].shape[0])

    @staticmethod
    def sizes(state: State) -> Sizes:
        return Sizes(state["latents"].shape[1], vision_width=state["proj_clip.0.weight"].shape[1] - STRUCTURE)

    def forward(self, features: Features) -> Tensor:
        identity, structure = features.states
        identity, structure = self.proj_id(identity), self.proj_clip(structure)
        tokens = self.latents.expand(len(identity), -1, -1)
        for by_identity, by_structure, feed in self.layers:
            tokens = tokens + by_identity(tokens, identity)
            tokens = tokens + STRUCTURE_WEIGHT * features.shortcut * by_structure(tokens, structure)
            tokens = tokens + feed(tokens)
        return self.norm_out(self.proj_out(tokens))


def _stack(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))


@dataclass(frozen=True)
class FaceStates:
    """CurricularFace's maps of the aligned face, and the tower's patches of it.

    For the negative prompt, the maps are zeros, and the patches are those of an empty picture or of `negative_image`.
    Without weights, the tokens of the mean attend to the states of all references together, as the authors' do.
    """

    picture = ALIGNED
    vision = PENULTIMATE
    embedding = ""
    empty = True
    backbone = FILE

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        faces, tower = required_faces(sources), tower_of(part, sources)
        if not isinstance(tower, FaceStatesTower):
            raise Mismatch(
                f"clip_vision has no CurricularFace ({FILE}), which {part.family.name} reads beside CLIP vision: "
                "connect clip_vision of Load FaceCDM Adapter"
            )
        crops, patches = aligned(faces, sources.image, CROP), negative_output(part, sources).states[:, 1:]
        identity, maps = tower.face_states(crops)
        structure = torch.cat([maps, check_output(tower.encode(crops), part).states[:, 1:]], -1)
        no_identity, no_maps = (states.new_zeros(len(patches), *states.shape[1:]) for states in (identity, maps))
        if sources.references == MEAN and not sources.weights:
            identity, structure = (states.flatten(0, 1)[None] for states in (identity, structure))
        shown = Features(states=(identity, structure), shortcut=sources.shortcut)
        return shown, shown.empty((no_identity, torch.cat([no_maps, patches], -1)))


FAMILY = Family(
    key="uniportrait",
    name="UniPortrait",
    stream="face",
    rule=Rule({"latents": (1, None, None), "proj_id.2.weight": (None, None), "proj_clip.2.weight": (None, None)}),
    projector=FaceIdResampler,
    recipe=FaceStates(),
    files={"SD1.5": "uniportrait-faceid_sd15.bin"},
    renames=(
        (r"^faceid_proj\.", "image_proj."),
        (r"^faceid_adapter\.", "ip_adapter."),
        (r"\.to_([kv])_faceid\.", r".to_\1_ip."),
    ),
    substitute="faceid-plusv2",
    strength=0.7,
    lora_factor=FULL_LORA,
    structure=True,
    note="It reads CurricularFace beside CLIP vision: connect clip_vision of Load FaceCDM Adapter. Any face pack finds "
    "the face",
)
