"""From poses to face locations."""

import numpy as np
import pytest
import torch

from facecdm.faces.align import TEMPLATE
from facecdm.pose.faces import person_of_points
from facecdm.pose.location import face_keypoints
from facecdm.pose.value import BadPose, Pose, PosePerson


def person_at(x: float, y: float, size: float) -> PosePerson:
    return person_of_points(np.asarray(TEMPLATE) / 112 * size + (x, y))


def pose(*people: PosePerson) -> Pose:
    return Pose(people, (100, 200))


def test_the_largest_face_in_shares_of_the_picture():
    keypoints = face_keypoints([pose(person_at(0, 0, 20), person_at(100, 50, 40))]).points
    assert keypoints.shape == (1, 5, 2)
    expected = (torch.tensor(TEMPLATE) / 112 * 40 + torch.tensor([100, 50])) / torch.tensor([200, 100])
    torch.testing.assert_close(keypoints[0], expected.float())


def test_the_person_in_the_mask():
    mask = torch.zeros(10, 10)
    mask[:, :4] = 1
    small, large = person_at(10, 10, 20), person_at(100, 50, 40)
    assert face_keypoints([pose(small, large)], mask)[0][0, :, 0].max() < 0.4
    assert face_keypoints([pose(small, large)], 1 - mask)[0][0, :, 0].min() > 0.4


def test_a_face_outside_the_mask_is_nobodys():
    """Another person's face is no location, even if it is the only one."""
    mask = torch.zeros(10, 10)
    mask[:, :4] = 1
    left, right = pose(person_at(10, 10, 20)), pose(person_at(150, 50, 40))
    assert face_keypoints([right, right], mask) == (None, None, ())
    keypoints, _, repeated = face_keypoints([right, left, right], mask)
    assert repeated == (0, 2) and keypoints[..., 0].max() < 0.4
    assert face_keypoints([right, left, right]).repeated == ()


def test_the_person_in_a_mask_of_another_shape():
    """A square picture shows the middle half of a pose twice as wide: there the right person stands at .75."""
    left, right = person_at(60, 30, 20), person_at(115, 30, 20)
    mask = torch.zeros(20, 20)
    mask[:, 12:] = 1
    points, aspects, _ = face_keypoints([pose(left, right)], mask)
    assert aspects.tolist() == [2.0] and points[0, :, 0].min() > 115 / 200


def test_a_picture_without_a_face_gets_the_previous_one():
    one, other = pose(person_at(0, 0, 20)), pose(person_at(50, 0, 20))
    keypoints, _, repeated = face_keypoints([pose(), one, pose(PosePerson()), other])
    assert repeated == (0, 2)
    assert torch.equal(keypoints[0], keypoints[1]) and torch.equal(keypoints[1], keypoints[2])
    assert not torch.equal(keypoints[2], keypoints[3])


def test_seventy_points_give_the_five():
    face = np.zeros((70, 3), np.float32)
    face[:, :2] = np.random.default_rng(0).random((70, 2)) * 50
    face[:, 2] = 1
    keypoints = face_keypoints([pose(PosePerson(face=face))]).points
    assert torch.allclose(keypoints[0, 2], torch.tensor(face[30, :2] / (200, 100)).float())


def test_poses_without_a_face_are_refused():
    with pytest.raises(BadPose, match="shows no face"):
        face_keypoints([pose(), pose(PosePerson())])


def test_coinciding_points_are_refused():
    one = PosePerson(five=np.array([[9, 9, 1]] * 5, np.float32))
    with pytest.raises(BadPose, match="shows no face"):
        face_keypoints([pose(one)])
