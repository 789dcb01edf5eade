"""Poses and their JSON: back and forth, other tools' variants, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.pose import layout
from facecdm.pose.generic_face import FACE as GENERIC_FACE
from facecdm.pose.generic_face import FIVE as GENERIC_FIVE
from facecdm.pose.value import (
    PARTS,
    BadPose,
    Pose,
    PosePerson,
    mean_point,
    poses_from_openpose,
    poses_to_openpose,
)

quickly = settings(deadline=None, max_examples=40)


@st.composite
def people(draw) -> PosePerson:
    """Any of the parts, points anywhere in a picture of 4096, seen or not."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    parts = {}
    for name, (_, size) in PARTS.items():
        points = np.hstack([random.uniform(3, 4096, (size, 2)), random.random((size, 1)) < draw(st.floats(0, 1))])
        parts[name] = (points * points[:, 2:]).round(3)
    return PosePerson(**parts)


@quickly
@given(people(), st.integers(3, 5000), st.integers(3, 5000))
def test_json_keeps_every_point(person, height, width):
    pose = Pose((person, person), (height, width))
    again = Pose.from_openpose(json.loads(json.dumps(pose.to_openpose())))
    assert again.size == (height, width) and len(again.people) == 2
    for name, points in again.people[1].parts.items():
        np.testing.assert_allclose(points, getattr(person, name), atol=2e-3)


def test_the_keys_and_counts_are_those_of_controlnet_aux_and_core():
    frame = Pose((PosePerson(),), (48, 64)).to_openpose()
    assert (frame["canvas_height"], frame["canvas_width"]) == (48, 64)
    counts = {key: len(numbers) // 3 for key, numbers in frame["people"][0].items()}
    assert counts == {
        "pose_keypoints_2d": 18,
        "face_keypoints_2d": 70,
        "hand_left_keypoints_2d": 21,
        "hand_right_keypoints_2d": 21,
        "face_5_keypoints_2d": 5,
    }


def test_confidences_are_one_or_zero_for_controlnet_aux():
    """It takes any confidence below 1 as not seen."""
    body = np.zeros((18, 3))
    body[0], body[1] = (10, 20, 0.6), (30, 40, 0.1)
    flat = Pose((PosePerson(body=body),), (64, 64)).to_openpose()["people"][0]["pose_keypoints_2d"]
    assert flat[:6] == [10, 20, 1, 0, 0, 0]


def test_parts_that_other_tools_leave_out_are_empty():
    person = {"pose_keypoints_2d": [5.0, 6.0, 1.0] * 18, "face_keypoints_2d": None, "hand_left_keypoints_2d": []}
    pose = Pose.from_openpose({"people": [person], "canvas_height": 10, "canvas_width": 10})
    assert (pose.people[0].body == (5, 6, 1)).all() and not pose.people[0].face.any()


def test_parts_of_the_canvas_become_pixels():
    person = {"pose_keypoints_2d": [0.5, 0.25, 1.0] * 18}
    pose = Pose.from_openpose({"people": [person], "canvas_height": 400, "canvas_width": 200})
    assert (pose.people[0].body == (100, 100, 1)).all()


def test_a_narrow_person_in_pixels_is_not_taken_for_shares():
    person = {"pose_keypoints_2d": [1.0, 50.0, 1.0] * 18}
    pose = Pose.from_openpose({"people": [person], "canvas_height": 400, "canvas_width": 200})
    assert (pose.people[0].body == (1, 50, 1)).all()


def test_confidences_are_bounded_and_invisible_points_have_no_position():
    points = [5.0, 6.0, 1.5, 5.0, 0.0, 1.0, 0.0, 6.0, 1.0, 5.0, 6.0, 0.0, 5.0, 6.0, -1.0] + [0.0] * 39
    person = Pose.from_openpose(
        {"people": [{"pose_keypoints_2d": points}], "canvas_height": 9, "canvas_width": 9}
    ).people[0]
    assert person.body[:5].tolist() == [[5, 6, 1], [5, 0, 1], [0, 6, 1], [0, 0, 0], [0, 0, 0]]
    assert person.visible == 3


def test_given_five_points_stay():
    five, face = np.full((5, 3), 7.0), np.full((70, 3), 9.0)
    assert (PosePerson(face=face, five=five).with_five().five == 7).all()
    assert (PosePerson(five=five).with_five().five == 7).all()
    assert not PosePerson().with_five().five.any()


def test_body_25_and_68_face_points_are_understood():
    body = np.arange(25)[:, None] * np.array([10.0, 10.0, 0.0]) + np.array([0, 0, 1.0])
    person = {"pose_keypoints_2d": body.ravel().tolist(), "face_keypoints_2d": [9.0, 9.0, 1.0] * 68}
    found = Pose.from_openpose({"people": [person], "canvas_height": 400, "canvas_width": 400}).people[0]
    assert found.body[:, 0].tolist() == [10.0 * n for n in (*range(8), *range(9, 19))]
    assert found.face[67, 2] == 1 and not found.face[68:].any()


@pytest.mark.parametrize("wrong", [
    None, [], "text", [None], [{"people": []}], [{"canvas_height": 0, "canvas_width": 5}],
    [{"canvas_height": 9, "canvas_width": 9, "people": [{"pose_keypoints_2d": [1, 2, 3, 4]}]}],
    [{"canvas_height": 9, "canvas_width": 9, "people": [{"pose_keypoints_2d": [1, 2, 1] * 7}]}],
    [{"canvas_height": 9, "canvas_width": 9, "people": [{"pose_keypoints_2d": [float("nan"), 2, 1] * 18}]}],
    [{"canvas_height": 9, "canvas_width": 9, "people": ["somebody"]}],
    [{"version": "ap10k", "animals": [[1.0]]}],
])  # fmt: skip
def test_other_values_are_refused_with_a_message(wrong):
    with pytest.raises(BadPose):
        poses_from_openpose(wrong)


def test_a_batch_keeps_its_order():
    poses = [Pose((PosePerson(),) * n, (10 + n, 20)) for n in range(3)]
    again = poses_from_openpose(poses_to_openpose(poses))
    assert [(len(pose.people), pose.size[0]) for pose in again] == [(0, 10), (1, 11), (2, 12)]


def test_tables_agree_with_each_other():
    assert len(layout.FACE_OF_LANDMARKS) == len(set(layout.FACE_OF_LANDMARKS)) == layout.FACE_SIZE
    for mirror in (layout.BODY_MIRROR, layout.FACE_MIRROR, layout.FIVE_MIRROR):
        assert [mirror[mirror[index]] for index in range(len(mirror))] == list(range(len(mirror)))
    for index, other in enumerate(layout.BODY_MIRROR):
        swapped = layout.BODY[index].replace("left", "?").replace("right", "left").replace("?", "right")
        assert layout.BODY[other] == swapped
    assert len(layout.LIMBS) == 17 and {end for limb in layout.LIMBS for end in limb} == set(range(18))


def test_the_five_points_of_seventy_begin_with_the_eye_on_the_viewers_left():
    """DWPose and OpenPose give 70 points; swapped eyes would turn the face location upside down."""
    face = np.hstack([GENERIC_FACE[:, :2] * (100, -100) + 200, np.ones((70, 1))])
    five = PosePerson(face=face).with_five().five
    expected = GENERIC_FIVE[:, :2] * (100, -100) + 200
    assert np.abs(five[:, :2] - expected).max() < 10  # a tenth of the distance between the eyes
    assert five[0, 0] < five[2, 0] < five[1, 0] and five[3, 0] < five[4, 0]
    assert (five[:, 2] == 1).all()


@pytest.mark.parametrize("shape", [(17, 3), (19, 3), (18, 2), (18, 4), (54,)])
def test_a_part_of_another_shape_is_refused(shape):
    with pytest.raises(BadPose, match=r"body must be \[18, 3\]"):
        PosePerson(body=np.zeros(shape))


def test_the_largest_picture_and_the_farthest_point():
    body = np.zeros((18, 3))
    body[0] = 1e6, -1e6, 1
    for size in ((16384, 1), (1, 16384)):
        assert Pose((PosePerson(body=body),), size).size == size
    for size in ((16385, 1), (1, 16385), (0, 1), (1, 0)):
        with pytest.raises(BadPose, match="1 … 16384 pixels"):
            Pose((), size)
    body[0, 0] = 1.01e6
    with pytest.raises(BadPose, match="up to 1000000"):
        PosePerson(body=body)


def test_the_mean_of_points_counts_the_visible_ones():
    points = np.array([[2, 4, 0.5], [4, 8, 0.75], [100, 100, 0]])
    assert mean_point(points).tolist() == [3, 6, 0.5]
    assert mean_point(points[2:]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [1e9, 1e30, 10**400, float("inf")], ids=str)
@pytest.mark.parametrize("part", ["pose_keypoints_2d", "hand_left_keypoints_2d", "canvas_width"])
def test_huge_numbers_are_refused_at_once(part, value):
    """Such a hand took Pillow 40 s to draw, such a canvas all memory."""
    frame = {"people": [{}], "canvas_height": 64, "canvas_width": 64}
    if part == "canvas_width":
        frame[part] = value
    else:
        frame["people"] = [{part: [value, 1, 1] * (18 if part.startswith("pose") else 21)}]
    with pytest.raises(BadPose) as caught:
        poses_from_openpose([frame])
    assert len(str(caught.value)) < 500
