"""Edits: inverses and invariants, for random people."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.errors import FaceCDMError
from facecdm.pose.edit import FITS, Edit, edited, mirrored, retargeted
from facecdm.pose.layout import BODY
from facecdm.pose.value import PARTS, Pose, PosePerson

quickly = settings(deadline=None, max_examples=40)


@st.composite
def poses(draw) -> Pose:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(16, 4000)), draw(st.integers(16, 4000))

    def points(count):
        table = np.hstack([random.uniform(0, 1, (count, 2)) * size[::-1], random.random((count, 1)) < 0.7])
        return table * table[:, 2:]

    people = tuple(
        PosePerson(**{name: points(count) for name, (_, count) in PARTS.items()})
        for _ in range(draw(st.integers(0, 3)))
    )
    return Pose(people, size)


def same(a: Pose, b: Pose, within: float = 1e-2) -> bool:
    return (
        a.size == b.size
        and len(a.people) == len(b.people)
        and all(
            np.allclose(getattr(p, name), getattr(q, name), atol=within)
            for p, q in zip(a.people, b.people)
            for name in PARTS
        )
    )


@quickly
@given(poses())
def test_mirrored_twice_is_as_before(pose):
    assert same(mirrored(mirrored(pose)), pose)


@quickly
@given(poses(), st.floats(0.2, 5), st.floats(-1, 1), st.floats(-1, 1))
def test_scaled_and_moved_back_is_as_before(pose, scale, right, down):
    there = edited(pose, Edit(scale=scale, right=right, down=down))
    moved_back = edited(there, Edit(right=-right, down=-down))
    assert same(edited(moved_back, Edit(scale=1 / scale)), pose, within=0.05)


@quickly
@given(poses())
def test_an_empty_edit_changes_nothing(pose):
    assert same(edited(pose, Edit()), pose) and same(retargeted(pose, pose.size), pose)


@quickly
@given(poses(), st.integers(16, 4000), st.integers(16, 4000))
def test_retargeting_there_and_back_is_as_before(pose, height, width):
    assert same(retargeted(retargeted(pose, (height, width), "stretch"), pose.size, "stretch"), pose, within=0.05)
    inside = retargeted(pose, (height, width), "fit inside")
    assert same(retargeted(inside, pose.size, "cover"), pose, within=0.05)
    assert inside.size == (height, width)


@quickly
@given(poses(), st.integers(16, 4000), st.integers(16, 4000), st.sampled_from(FITS))
def test_what_is_in_the_picture_stays_in_it_or_is_cropped_by_cover(pose, height, width, fit):
    for person in retargeted(pose, (height, width), fit).people:
        for points in person.parts.values():
            visible = points[points[:, 2] > 0]
            if fit != "cover" and len(visible):
                assert visible[:, :2].min() >= -0.01
                assert visible[:, 0].max() <= width + 0.01 and visible[:, 1].max() <= height + 0.01


@quickly
@given(poses(), st.floats(0.1, 9), st.booleans(), st.floats(-50, 50))
def test_invisible_points_stay_zero(pose, scale, mirror, yaw):
    again = edited(pose, Edit(yaw=yaw, scale=scale, right=0.3, down=-0.2, mirror=mirror))
    for person in again.people:
        for points in person.parts.values():
            assert not points[points[:, 2] == 0].any()


def test_a_mirror_swaps_names_and_positions():
    body, hand = np.zeros((18, 3)), np.ones((21, 3))
    body[BODY.index("right wrist")] = (10, 50, 1)
    pose = mirrored(Pose((PosePerson(body=body, right_hand=hand),), (100, 200)))
    assert pose.people[0].body[BODY.index("left wrist")].tolist() == [190, 50, 1]
    assert not pose.people[0].body[BODY.index("right wrist")].any()
    assert pose.people[0].left_hand[0].tolist() == [199, 1, 1] and not pose.people[0].right_hand.any()


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"scale": -1}, {"right": float("nan")}, {"yaw": float("inf")}])
def test_invalid_edits_are_refused(wrong):
    with pytest.raises(FaceCDMError):
        Edit(**wrong)
    with pytest.raises(FaceCDMError, match="fit"):
        retargeted(Pose((), (5, 5)), (6, 6), "somehow")
