"""Face crops that published adapters encode: aligned as by InsightFace, or a square around the face."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import FaceCDMError
from ..faces.align import insightface_template, similarity, warped
from ..faces.source_picture import source_pictures
from ..faces.value import Faces
from ..pictures import rgb, uint8_rgb

MARGIN = 0.4  # added on each side of a face's box, as a share of the box


def aligned(faces: Faces, pictures: Tensor | None, size: int) -> Tensor:
    """Cut faces from `pictures` [B, H, W, C] in the frame of the adapters' training: [faces, size, size, 3].

    If the faces were not found in these pictures, return the faces' own crops in their own size.
    """
    sources = source_pictures(faces, pictures)
    if sources is None:
        side = min(face.crop.shape[0] for face in faces)
        return torch.cat([_resized(face.crop, side) for face in faces])
    cut = [
        warped(uint8_rgb(pictures[source]), similarity(face.keypoints.numpy(), insightface_template(size)), size)
        for face, source in zip(faces, sources)
    ]
    return torch.stack([torch.from_numpy(picture).float() / 255 for picture in cut])


def squares(faces: Faces, pictures: Tensor, name: str) -> Tensor:
    """Squares around the faces' boxes [faces, 512, 512, 3], cut off at the pictures' edges.

    As in Doby-Xu/WithAnyone, util.py. Raises FaceCDMError, which names the family, if the faces were not found in
    `pictures` [B, H, W, C].
    """
    sources = source_pictures(faces, pictures)
    if sources is None:
        raise FaceCDMError(
            f"not all of the {len(faces)} face(s) were found in image, and {name} encodes the faces in their pictures: "
            "connect the same picture to image as to Detect & Embed Faces"
        )
    pictures, cut = rgb(pictures), []
    for face, source in zip(faces, sources):
        x0, y0, x1, y1 = (int(value) for value in face.box)
        wider = (x1 - x0) - (y1 - y0)
        above, beside = max(wider, 0) // 2, max(-wider, 0) // 2
        y0, y1 = y0 - above, y1 + max(wider, 0) - above
        x0, x1 = x0 - beside, x1 + max(-wider, 0) - beside
        cut.append(_resized(pictures[source, max(y0, 0) : y1, max(x0, 0) : x1], 512, "bicubic"))
    return torch.cat(cut).clamp(0, 1)


def close_ups(faces: Faces, pictures: Tensor) -> Tensor:
    """Squares around the faces [faces, 448, 448, 3], cut from `pictures` [B, H, W, C].

    If the faces were not found in these pictures, return the pictures as RGB [B, H, W, 3].
    """
    sources = source_pictures(faces, pictures)
    pictures = rgb(pictures)
    if sources is None:
        return pictures
    cut = []
    for face, source in zip(faces, sources):
        height, width = face.image_size
        side = int(min(max(face.width, face.height) * (1 + 2 * MARGIN), height, width))
        x, y = (int((face.box[i] + face.box[i + 2]) / 2 - side / 2) for i in (0, 1))
        x, y = max(min(x, width - side), 0), max(min(y, height - side), 0)
        cut.append(_resized(pictures[source, y : y + side, x : x + side], 448))
    return torch.cat(cut)


def _resized(picture: Tensor, side: int, mode: str = "bilinear") -> Tensor:
    """A picture [H, W, 3] → [1, side, side, 3]."""
    channels_first = picture.movedim(-1, 0)[None].float()
    return F.interpolate(channels_first, (side, side), mode=mode, antialias=True).movedim(1, -1)
