"""From poses to where a face is to be: its five key points in each picture."""

import torch
from torch import Tensor

from ..faces.location import centre_crop
from .value import VISIBLE, BadPose, Pose, PosePerson


def face_keypoints(poses: list[Pose], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """([pictures, 5, 2] in 0…1 of the pose's canvas, [pictures]: its width over its height): of several people the
    largest face, or the one that `mask` [H, W] in 0…1 of the picture covers most.

    A picture without a face has that of the picture before (the first ones: of the first that has one). Raises BadPose
    where none has.
    """
    found = [None if (points := _chosen(pose, mask)) is None else (points, _aspect(pose)) for pose in poses]
    first = next((one for one in found if one is not None), None)
    if first is None:
        raise BadPose(
            "pose shows no face with two eyes, a nose and a mouth, so it does not say where the face is to "
            "be: connect one that does (Extract Pose with its face detector), or disconnect it"
        )
    places, last = [], first
    for one in found:
        last = one or last
        places.append(last)
    points, aspects = zip(*places)
    return torch.stack(points), torch.stack(aspects)


def _chosen(pose: Pose, mask: Tensor | None) -> Tensor | None:
    faces = [points for person in pose.people if (points := _five(person, pose.size)) is not None]
    if not faces:
        return None

    def size(points: Tensor) -> float:
        return float((points.amax(0) - points.amin(0)).prod())

    def covered(points: Tensor) -> tuple[float, float]:
        if mask is None:
            return 0.0, size(points)
        side = mask.new_tensor([mask.shape[1], mask.shape[0]])
        places = (centre_crop(points[None], _aspect(pose)[None], *mask.shape)[0] * side).long()
        x, y = places.clamp(mask.new_zeros(2).long(), side.long() - 1).unbind(1)
        return float(mask[y, x].mean()), size(points)

    return max(faces, key=covered)


def _aspect(pose: Pose) -> Tensor:
    return torch.tensor(pose.size[1] / pose.size[0])


def _five(person: PosePerson, size: tuple[int, int]) -> Tensor | None:
    """[5, 2] in 0…1, or None where one of them is not seen, or all are one point."""
    five = torch.from_numpy(person.with_five().five)
    if (five[:, 2] < VISIBLE).any() or not five[:, :2].std(0).any():
        return None
    return (five[:, :2] / five.new_tensor([size[1], size[0]])).float()
