"""The face picture that PuLID encodes: upright, grey, on white, as in its authors' code.

ToTheBeginning/PuLID, pulid/pipeline.py: `get_id_embedding`; xinntao/facexlib for the frame and the parser.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceCDMError
from ..faces.align import ellipse_mask, similarity, warped
from ..faces.source_picture import source_pictures
from ..faces.value import Faces
from ..pictures import uint8_rgb
from .bisenet import MEAN as PARSER_MEAN
from .bisenet import STD as PARSER_STD
from .bisenet import BiSeNet
from .eva import MEAN, STD

SIZE = 512
# The five key points in FFHQ's frame of 512 × 512 (facexlib, face_restoration_helper.py).
FFHQ = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
_OUTSIDE = (132, 133, 135)  # facexlib's grey beyond the picture's edge
# Of the parser's 19 classes: background, ears, earrings, neck, necklace, clothes, hat.
_NOT_FACE = (0, 7, 8, 9, 14, 15, 16, 18)

Background = Callable[[Tensor], Tensor]  # faces [B, 3, 512, 512] in FFHQ's frame, 0…1 → bool [B, 1, 512, 512]


def upright_faces(faces: Faces, pictures: Tensor) -> Tensor:
    """Cut faces in FFHQ's frame, [faces, 3, 512, 512] in 0…1, from the pictures [B, H, W, C] that show them.

    Raises FaceCDMError if the faces were found in other pictures.
    """
    sources = source_pictures(faces, pictures)
    if sources is None:
        raise FaceCDMError(
            f"image holds {len(pictures)} picture(s) of {pictures.shape[2]} × {pictures.shape[1]}, and not all of the "
            f"{len(faces)} face(s) were found in them. PuLID encodes the faces in their pictures: connect the same "
            "picture to image as to Detect & Embed Faces."
        )
    uint8 = uint8_rgb(pictures)
    upright = [
        warped(uint8[source], similarity(face.keypoints.numpy(), FFHQ), SIZE, _OUTSIDE)
        for face, source in zip(faces, sources)
    ]
    return torch.from_numpy(np.stack(upright)).movedim(-1, 1).float() / 255


def prepared(upright: Tensor, background: Background, size: int = 336) -> Tensor:
    """Upright faces [B, 3, 512, 512] → the tower's input [B, 3, size, size]: grey, on white, normalised."""
    grey = (upright * upright.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    grey = torch.where(background(upright), torch.ones_like(grey), grey).expand(-1, 3, -1, -1)
    return _normalised(F.interpolate(grey, (size, size), mode="bicubic", align_corners=False), MEAN, STD)


def oval(upright: Tensor) -> Tensor:
    """Background without a parser: all but an oval around head and hair. For portraits it is close to the parser's."""
    inside = torch.from_numpy(ellipse_mask(FFHQ - [0, 12], SIZE, SIZE, grow=1.15, feather=1e-3)) > 0.5
    return ~inside.to(upright.device).expand(len(upright), 1, -1, -1)


def parsed(parser: BiSeNet) -> Background:
    """Background by PuLID's own parser."""

    def background(upright: Tensor) -> Tensor:
        with torch.no_grad():
            classes = parser(_normalised(upright, PARSER_MEAN, PARSER_STD)).argmax(1, keepdim=True)
        return torch.isin(classes, torch.tensor(_NOT_FACE, device=classes.device))

    return background


def _normalised(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    mean, std = (pictures.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return (pictures - mean) / std
