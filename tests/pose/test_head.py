"""The head's turn: exact on the generic face, right on FaceWorld's pictures and a photograph."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.pose.generic_face import FACE, FIVE
from facecdm.pose.head import Angles, fit_head, turn_head
from facecdm.pose.layout import FACE_MIRROR, FIVE_MIRROR
from facecdm.pose.value import PosePerson

angle = st.floats(-40, 40)
quickly = settings(deadline=None, max_examples=25)


def visible(angles: Angles, model: np.ndarray, scale: float = 50, shift=(200, 150)) -> np.ndarray:
    """The generic face as a picture shows it."""
    flat = scale * (model @ angles.matrix.T)[:, :2] * (1, -1) + shift
    return np.hstack([flat, np.ones((len(flat), 1))])


@quickly
@given(angle, angle, angle)
def test_angles_and_matrix_are_inverse(yaw, pitch, roll):
    again = Angles.of(Angles(yaw, pitch, roll).matrix)
    assert (again.yaw, again.pitch, again.roll) == pytest.approx((yaw, pitch, roll), abs=1e-6)


@quickly
@given(angle, st.floats(-25, 25), angle, st.floats(5, 500))
def test_the_generic_face_is_read_exactly(yaw, pitch, roll, scale):
    expected = Angles(yaw, pitch, roll)
    fit = fit_head(PosePerson(face=visible(expected, FACE, scale)))
    found = fit.angles
    assert (found.yaw, found.pitch, found.roll) == pytest.approx((yaw, pitch, roll), abs=0.3)
    assert fit.scale == pytest.approx(scale, rel=0.01) and fit.error < 0.01


@quickly
@given(angle, st.floats(-20, 20), angle)
def test_five_points_give_the_rotation_too(yaw, pitch, roll):
    found = fit_head(PosePerson(five=visible(Angles(yaw, pitch, roll), FIVE))).angles
    assert found.yaw == pytest.approx(yaw, abs=3) and found.roll == pytest.approx(roll, abs=3)


def test_signs():
    """Yaw > 0: the nose is on the viewer's right of the eyes' middle. Pitch > 0: it is lower. Roll > 0: the right
    eye of the picture is higher."""
    nose = FIVE[2] - (FIVE[0] + FIVE[1]) / 2
    assert (Angles(20, 0, 0).matrix @ nose)[0] > 0 > (Angles(-20, 0, 0).matrix @ nose)[0]
    assert (Angles(0, 20, 0).matrix @ nose)[1] < nose[1]
    assert (Angles(0, 0, 20).matrix @ FIVE[1])[1] > (Angles(0, 0, 20).matrix @ FIVE[0])[1]


def test_the_generic_face_is_symmetric():
    for model, mirror in ((FACE, FACE_MIRROR), (FIVE, FIVE_MIRROR)):
        np.testing.assert_allclose(model[list(mirror)] * (-1, 1, 1), model, atol=2e-3)


@quickly
@given(angle, angle, st.floats(-20, 20))
def test_turning_turns_by_that_much(first, then, pitch):
    person = PosePerson(face=visible(Angles(first, 0, 5), FACE))
    found = fit_head(turn_head(person, Angles(then, pitch, 0))).angles
    assert found.yaw == pytest.approx(first + then, abs=1.5) and found.pitch == pytest.approx(pitch, abs=1.5)


@quickly
@given(angle, angle, st.integers(0, 99))
def test_turning_there_and_back_keeps_the_person(first, then, seed):
    """Also where the face is not the generic one: its own shape is kept, not replaced."""
    points = visible(Angles(first / 2, 0, 0), FACE)
    points[:, :2] += np.random.default_rng(seed).normal(0, 1, (70, 2))
    person = PosePerson(face=points)
    again = turn_head(turn_head(person, Angles(then / 2, 0, 0)), Angles(-then / 2, 0, 0))
    assert np.abs(again.face - person.face).max() < 0.1 * 50
    same = turn_head(person, Angles(0, 0, 0))
    np.testing.assert_allclose(same.face, person.face, atol=1e-3)


def test_the_body_stays_and_invisible_points_stay_invisible():
    face, body = visible(Angles(0, 0, 0), FACE), np.zeros((18, 3))
    body[[0, 1, 2]] = (200, 150, 1), (200, 300, 1), (150, 300, 1)
    face[5] = 0
    turned = turn_head(PosePerson(body=body, face=face), Angles(30, 0, 0))
    assert turned.body[0, 0] > 200 and (turned.body[1:3] == body[1:3]).all()
    assert not turned.body[14:].any() and not turned.face[5].any()


def test_without_a_face_there_is_no_rotation():
    assert fit_head(PosePerson()) is None
    assert fit_head(PosePerson(face=np.full((70, 3), 5.0) * (1, 1, 0.2))) is None
    assert fit_head(PosePerson(face=np.tile((5.0, 5.0, 1.0), (70, 1)))) is None
    person = PosePerson(body=np.tile((5.0, 5.0, 1.0), (18, 1)))
    assert turn_head(person, Angles(30, 0, 0)) is person
