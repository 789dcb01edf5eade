"""Drawings: colours, switched-off parts, and a comparison with the annotator of ControlNet."""

import numpy as np
import pytest

from facecdm.pose.draw import draw_five, draw_openpose
from facecdm.pose.generic_face import FACE
from facecdm.pose.layout import COLOURS, FIVE_COLOURS, LIMBS
from facecdm.pose.value import Pose, PosePerson


def standing_person(height: int = 512, width: int = 512) -> PosePerson:
    """A standing person with one arm out, hands and face visible."""
    body = np.array([(.5, .15), (.5, .28), (.4, .28), (.3, .38), (.2, .48), (.6, .28), (.66, .42), (.7, .55),
                     (.43, .55), (.42, .74), (.41, .93), (.57, .55), (.58, .74), (.59, .93), (.47, .12), (.53, .12),
                     (.43, .14), (.57, .14)])  # fmt: skip
    turn = np.linspace(0, 6, 21)
    hand = np.stack([0.2 + 0.03 * np.cos(turn), 0.52 + 0.03 * np.sin(turn)], 1)
    face = np.array([0.5, 0.15]) + FACE[:, :2] * (0.04, -0.04)

    def shown(points):
        return np.hstack([points * (width, height), np.ones((len(points), 1))])

    return PosePerson(body=shown(body), right_hand=shown(hand), left_hand=shown(hand + (0.5, 0.07)), face=shown(face))


def test_joints_and_limbs_have_openposes_colours():
    pose = Pose((standing_person(),), (512, 512))
    picture = draw_openpose(pose, hands=False, face=False)
    for (x, y, _), colour in zip(pose.people[0].body, COLOURS):
        assert tuple(picture[round(float(y)), round(float(x))]) == colour
    a, b = pose.people[0].body[4, :2], pose.people[0].body[3, :2]
    middle = ((a + b) / 2).round().astype(int)
    limb = COLOURS[LIMBS.index((3, 4))]
    assert tuple(picture[middle[1], middle[0]]) == tuple(int(c * 0.6) for c in limb)
    assert (picture == 0).all(2).mean() > 0.9


def test_instantids_points_have_their_colours_and_sizes():
    five = np.array([(400, 400, 1), (600, 400, 1), (500, 500, 1), (420, 600, 1), (580, 600, 1)], float)
    picture = draw_five(Pose((PosePerson(five=five),), (1024, 1024)))
    for (x, y, _), colour in zip(five, FIVE_COLOURS):
        dot = (picture[int(y) - 12 : int(y) + 13, int(x) - 12 : int(x) + 13] == colour).all(2)
        assert abs(dot.sum() - np.pi * 10**2) < 40  # radius 10
    assert tuple(picture[450, 450]) == (int(255 * 0.6), 0, 0)  # from the left eye to the nose


@pytest.mark.parametrize("switch", ["body", "hands", "face"])
def test_what_is_switched_off_is_not_drawn(switch):
    pose = Pose((standing_person(),), (512, 512))
    off = {name: False for name in ("body", "hands", "face")}
    assert not draw_openpose(pose, **off).any()
    assert draw_openpose(pose, **off | {switch: True}).any()


def test_invisible_points_and_empty_pictures_are_black():
    empty = Pose((PosePerson(),), (40, 30))
    for picture in (draw_openpose(empty), draw_five(empty)):
        assert picture.shape == (40, 30, 3) and not picture.any()
    uncertain = PosePerson(body=np.tile((20.0, 20.0, 0.1), (18, 1)))
    assert not draw_openpose(Pose((uncertain,), (40, 40))).any()


def test_lines_grow_with_the_picture_and_with_thickness():
    poses = [Pose((standing_person(side, side),), (side, side)) for side in (256, 1024)]
    shares = [(draw_openpose(pose) > 0).any(2).mean() for pose in poses]
    assert shares[0] == pytest.approx(shares[1], rel=0.3)  # a dot has whole pixels
    pose = Pose((standing_person(),), (512, 512))
    assert (draw_openpose(pose, thickness=2) > 0).sum() > 1.5 * (draw_openpose(pose) > 0).sum()


def test_points_far_outside_do_no_harm():
    far = PosePerson(body=np.tile((1e6, -1e6, 1.0), (18, 1)), face=np.tile((-1e5, 1e5, 1.0), (70, 1)))
    assert not draw_openpose(Pose((far,), (64, 64))).any()


def test_the_drawing_is_the_annotators(openpose_package):
    """Nine pixels of ten are the very same as controlnet_aux's drawing of the same points, edges aside."""
    from controlnet_aux.open_pose import BodyResult, Keypoint, PoseResult, draw_poses

    person = standing_person()

    def points(table):
        return [Keypoint(float(x) / 512, float(y) / 512) for x, y, _ in table]

    theirs = draw_poses([PoseResult(BodyResult(points(person.body), 1, 18), points(person.left_hand),
                                    points(person.right_hand), points(person.face))], 512, 512)  # fmt: skip
    ours = draw_openpose(Pose((person,), (512, 512)))
    drawn = (theirs > 0).any(2) | (ours > 0).any(2)
    near = np.abs(theirs.astype(int) - ours).max(2) < 40
    assert near[drawn].mean() > 0.8
    union = ((theirs > 0).any(2) & (ours > 0).any(2)).sum() / drawn.sum()
    assert union > 0.85
