"""Face location from poses: five key points for each picture."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..faces.location import centre_crop
from .value import VISIBLE, BadPose, Pose, PosePerson


class FaceKeypoints(NamedTuple):
    """Face locations of pictures.

    points    [pictures, 5, 2] in 0…1 of the pose's canvas; None if the mask covers no face
    aspects   [pictures], aspect ratio of the canvas; None if the mask covers no face
    repeated  numbers of the pictures that use the face of another one
    """

    points: Tensor | None
    aspects: Tensor | None
    repeated: tuple[int, ...] = ()


def face_keypoints(poses: list[Pose], mask: Tensor | None = None) -> FaceKeypoints:
    """Return five key points for each picture.

    The largest face is used, or, of those that `mask` [H, W] in 0…1 covers, the one that it covers most. A picture
    without such a face repeats the face of the picture before it; leading ones use the first face found. Raises
    BadPose if no picture has a face.
    """
    faces = [_faces(pose) for pose in poses]
    if not any(faces):
        raise BadPose(
            "pose shows no face with two eyes, a nose and a mouth, so it gives no face location: connect "
            "one that does (Extract Pose with its face detector), or disconnect it"
        )
    mask = None if mask is None else mask.float().cpu()
    found = [_chosen(points, _aspect(pose), mask) for pose, points in zip(poses, faces)]
    last = next((one for one in found if one is not None), None)
    if last is None:
        return FaceKeypoints(None, None)
    filled = []
    for one in found:
        last = one or last
        filled.append(last)
    points, aspects = zip(*filled)
    repeated = tuple(number for number, one in enumerate(found) if one is None)
    return FaceKeypoints(torch.stack(points), torch.stack(aspects), repeated)


def _faces(pose: Pose) -> list[Tensor]:
    return [points for person in pose.people if (points := _five(person, pose.size)) is not None]


def _chosen(faces: list[Tensor], aspect: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The key points of a picture's face, and `aspect`; None if there is no face, or none that `mask` covers."""

    def size(points: Tensor) -> float:
        return float((points.amax(0) - points.amin(0)).prod())

    def covered(points: Tensor) -> float:
        side = mask.new_tensor([mask.shape[1], mask.shape[0]])
        pixels = (centre_crop(points[None], aspect[None], *mask.shape)[0] * side).long()
        x, y = pixels.clamp(mask.new_zeros(2).long(), side.long() - 1).unbind(1)
        return float(mask[y, x].mean())

    ranked = [(1.0 if mask is None else covered(points), size(points), points) for points in faces]
    inside = [face for face in ranked if face[0] > 0]
    return (max(inside, key=lambda face: face[:2])[2], aspect) if inside else None


def _aspect(pose: Pose) -> Tensor:
    return torch.tensor(pose.size[1] / pose.size[0])


def _five(person: PosePerson, size: tuple[int, int]) -> Tensor | None:
    """Key points [5, 2] in 0…1; None if one is not visible, or if all coincide."""
    five = torch.from_numpy(person.with_five().five)
    if (five[:, 2] < VISIBLE).any() or not five[:, :2].std(0).any():
        return None
    return (five[:, :2] / five.new_tensor([size[1], size[0]])).float()
