"""ConsistentID: FaceID Plus' projector over the whole image, with a LoRA, and an encoder of the face's parts.

Huang et al., "ConsistentID: Portrait Generation with Multimodal Fine-Grained Identity Preserving", 2024;
JackAILab/ConsistentID, pipline_StableDiffusion_ConsistentID.py, attention.py and functions.py. The encoder of the parts
(`FacialEncoder`) changes words of the prompt and is not read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...adapter.features import Features
from ...errors import FaceCDMError, Mismatch
from ...faces.source_picture import source_pictures
from ..encoders import PENULTIMATE
from ..family import FULL_LORA, NORMED, WHOLE, Family, FeaturePair, Rule
from ..recipes import check_output, face_embeddings, negative_output, tower_of
from ..recognised import Recognised
from ..sources import Sources
from .faceid_plus import RULE, IdentityPlus

FACIAL_ENCODER = "FacialEncoder."


@dataclass(frozen=True)
class FaceAndPicture:
    """The normed embedding, and the tower's states of the whole picture that the face is in; for the negative prompt, a
    zero embedding and the states of an empty picture or of `negative_image`.
    """

    picture = WHOLE
    vision = PENULTIMATE
    embedding = NORMED
    empty = True

    def __call__(self, part: Recognised, sources: Sources) -> FeaturePair:
        embedding, tower = face_embeddings(part, sources), tower_of(part, sources)
        if sources.image is None:
            raise FaceCDMError(
                f"{part.family.name} needs {WHOLE}: connect the picture of Detect & Embed Faces to image"
            )
        shown = Features(embedding, check_output(tower.encode(_pictures(sources)), part).states, sources.shortcut)
        return shown, shown.empty(negative_output(part, sources).states)


def _pictures(sources: Sources) -> Tensor:
    """The picture of each face, found by its appearance; else one picture for all, or one for each. Raises Mismatch."""
    faces, pictures = sources.faces, sources.image
    found = source_pictures(faces, pictures)
    if found is not None:
        return pictures[torch.tensor(found)]
    if len(pictures) not in (1, len(faces)):
        raise Mismatch(
            f"image has {len(pictures)} pictures, and the {len(faces)} faces were not found in them: connect the same "
            "pictures to image as to Detect & Embed Faces"
        )
    return pictures.expand(len(faces), *pictures.shape[1:])


FAMILY = Family(
    key="consistentid",
    name="ConsistentID",
    stream="face",
    rule=Rule(RULE.shapes, lambda state: any(key.startswith(FACIAL_ENCODER) for key in state)),
    projector=IdentityPlus,
    recipe=FaceAndPicture(),
    ignored=(FACIAL_ENCODER,),
    files={"SD1.5": "ConsistentID-v1.bin", "SDXL": "ConsistentID_SDXL-v1.bin"},
    renames=((rf"^{FACIAL_ENCODER}", f"image_proj.{FACIAL_ENCODER}"),),
    substitute="pulid-flux",
    strength=1.0,
    lora_factor=FULL_LORA,
    note="Its face stream and LoRA act; its FacialEncoder, which changes words of the prompt, does not",
)
