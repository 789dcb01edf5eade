"""Face crops that published adapters encode: aligned as by InsightFace, or a square around the face."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..faces.align import similarity, upstream_template, warped
from ..faces.source_picture import source_pictures
from ..faces.value import Faces

MARGIN = 0.4  # added on each side of a face's box, as a share of the box


def aligned(faces: Faces, pictures: Tensor | None, size: int) -> Tensor:
    """Cut faces from `pictures` [B, H, W, 3] in the frame of the adapters' training: [faces, size, size, 3].

    If the faces were not found in these pictures, return the faces' own crops in their own size.
    """
    sources = source_pictures(faces, pictures)
    if sources is None:
        side = min(face.crop.shape[0] for face in faces)
        return torch.cat(
            [
                F.interpolate(face.crop.movedim(-1, 0)[None], (side, side), mode="bilinear", antialias=True).movedim(
                    1, -1
                )
                for face in faces
            ]
        )
    cut = [
        warped(_uint8(pictures[source]), similarity(face.keypoints.numpy(), upstream_template(size)), size)
        for face, source in zip(faces, sources)
    ]
    return torch.stack([torch.from_numpy(picture).float() / 255 for picture in cut])


def close_ups(faces: Faces, pictures: Tensor) -> Tensor:
    """Squares around the faces [faces, 448, 448, 3]; the pictures themselves if the faces were not found in them."""
    sources = source_pictures(faces, pictures)
    if sources is None:
        return pictures
    squares = []
    for face, source in zip(faces, sources):
        height, width = face.image_size
        side = int(min(max(face.width, face.height) * (1 + 2 * MARGIN), height, width))
        x, y = (int((face.box[i] + face.box[i + 2]) / 2 - side / 2) for i in (0, 1))
        x, y = max(min(x, width - side), 0), max(min(y, height - side), 0)
        squares.append(
            F.interpolate(
                pictures[source, y : y + side, x : x + side].movedim(-1, 0)[None].float(),
                (448, 448),
                mode="bilinear",
                antialias=True,
            ).movedim(1, -1)
        )
    return torch.cat(squares)


def _uint8(picture: Tensor):
    return (picture[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
