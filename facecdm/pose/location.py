"""Face location from poses: five key points for each picture."""

import torch
from torch import Tensor

from ..faces.location import centre_crop
from .value import VISIBLE, BadPose, Pose, PosePerson


def face_keypoints(poses: list[Pose], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (key points [pictures, 5, 2] in 0…1 of the pose's canvas, aspect ratio of the canvas [pictures]).

    The largest face is used, or the one that `mask` [H, W] in 0…1 covers most. A picture without a face repeats the
    face of the picture before it; leading ones use the first face found. Raises BadPose if no picture has a face.
    """
    found = [None if (points := _chosen(pose, mask)) is None else (points, _aspect(pose)) for pose in poses]
    first = next((one for one in found if one is not None), None)
    if first is None:
        raise BadPose(
            "pose shows no face with two eyes, a nose and a mouth, so it gives no face location: connect "
            "one that does (Extract Pose with its face detector), or disconnect it"
        )
    filled, last = [], first
    for one in found:
        last = one or last
        filled.append(last)
    points, aspects = zip(*filled)
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
        pixels = (centre_crop(points[None], _aspect(pose)[None], *mask.shape)[0] * side).long()
        x, y = pixels.clamp(mask.new_zeros(2).long(), side.long() - 1).unbind(1)
        return float(mask[y, x].mean()), size(points)

    return max(faces, key=covered)


def _aspect(pose: Pose) -> Tensor:
    return torch.tensor(pose.size[1] / pose.size[0])


def _five(person: PosePerson, size: tuple[int, int]) -> Tensor | None:
    """Key points [5, 2] in 0…1; None if one is not visible, or if all coincide."""
    five = torch.from_numpy(person.with_five().five)
    if (five[:, 2] < VISIBLE).any() or not five[:, :2].std(0).any():
        return None
    return (five[:, :2] / five.new_tensor([size[1], size[0]])).float()
