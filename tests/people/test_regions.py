"""Where people are: masks that share a picture without lying on each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.errors import FaceCDMError
from facecdm.faces.value import Face, Faces
from facecdm.people import boxes_of_faces, parse_boxes, regions_of_boxes, regions_of_layout

HALVES = parse_boxes("0 0 0.5 1\n0.5 0 1 1")


def face(*box: float, size=(100, 200), picture: int = 0) -> Face:
    return Face(torch.ones(4), torch.rand(5, 2), torch.tensor(box).float(), 0.9, size, picture, torch.zeros(8, 8, 3))


@given(
    st.lists(st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.05, 1)] * 2), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(["box", "ellipse"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_masks_never_sum_to_more_than_one(corners, softness, shape, whole):
    boxes = torch.tensor([[x, y, min(x + w, 1), min(y + h, 1)] for x, y, w, h in corners])
    regions = regions_of_boxes(
        boxes, 24, 40, shape=shape, softness=softness, fill="whole picture" if whole else "regions only"
    )
    total = regions.masks.sum(0)
    assert regions.masks.shape == (len(corners), 24, 40) and regions.masks.min() >= 0
    assert total.max() <= 1 + 1e-6
    torch.testing.assert_close(total + regions.background, torch.ones(24, 40))
    if whole:
        torch.testing.assert_close(total, torch.ones(24, 40))


def test_two_halves_touch_softly_and_fill_the_picture():
    left, right = regions_of_boxes(HALVES, 20, 40, softness=0.2).masks
    torch.testing.assert_close(left + right, torch.ones(20, 40))
    torch.testing.assert_close(left, right.flip(1))
    assert left[:, :16].eq(1).all() and left[:, 24:].eq(0).all(), "soft in the middle alone, and exactly 0 beyond"
    assert (left[10].diff() <= 0).all() and 0 < left[10, 19] < 1


def test_without_softness_regions_do_not_overlap():
    masks = regions_of_boxes(HALVES, 20, 40, softness=0.0).masks
    assert set(masks.unique().tolist()) == {0.0, 1.0} and (masks.sum(0) == 1).all()


def test_outside_of_all_regions_is_background():
    regions = regions_of_boxes(parse_boxes("0.1 0.1 0.3 0.9"), 50, 100)
    assert regions.background[:, 50:].eq(1).all() and regions.masks[0, 25, 20] == 1


def test_grow():
    small, large = (regions_of_boxes(parse_boxes("0.4 0.4 0.6 0.6"), 50, 50, grow=grow).masks.sum() for grow in (1, 2))
    assert 3 < large / small < 5


def test_faces_become_head_and_shoulders():
    boxes = boxes_of_faces(Faces((face(20, 30, 50, 70), face(140, 30, 180, 70)), "r"))
    (x0, y0, x1, y1), other = boxes.tolist()
    assert x0 < 0.1 and y0 < 0.3 and x1 > 0.25 and y1 > 0.9 and other[0] > x1
    masks = regions_of_boxes(boxes, 100, 200).masks
    assert masks[0, 50, 35] == 1 and masks[1, 50, 160] == 1 and masks[1, 50, 35] == 0


def test_faces_of_several_pictures_are_no_layout():
    with pytest.raises(FaceCDMError, match="several pictures"):
        boxes_of_faces(Faces((face(0, 0, 9, 9), face(0, 0, 9, 9, picture=1)), "r"))
    with pytest.raises(FaceCDMError, match="no face"):
        boxes_of_faces(Faces((), "r"))


def test_a_painted_layout_counts_from_the_left():
    layout = torch.zeros(60, 120, 3)
    layout[10:50, 70:110] = torch.tensor([0.9, 0.1, 0.2])  # red, on the right
    layout[10:50, 5:40] = torch.tensor([0.1, 0.2, 0.8])
    layout[0, 0] = 1  # a speck is nobody
    regions = regions_of_layout(layout, 30, 60, softness=0.1)
    assert len(regions) == 2 and regions.masks[0, 15, 10] == 1 and regions.masks[1, 15, 45] == 1
    assert regions.background[15, 27] == 1 and regions.masks.sum(0).max() <= 1 + 1e-6


def test_painted_regions_that_touch_share_the_border():
    layout = torch.zeros(40, 40, 3)
    layout[:, :20, 0] = layout[:, 20:, 1] = 1
    masks = regions_of_layout(layout, 40, 40, softness=0.2).masks
    torch.testing.assert_close(masks.sum(0), torch.ones(40, 40))
    assert 0.3 < masks[0, 20, 19] < 0.7


@pytest.mark.parametrize("text", ["", "0 0 1", "0 0 1 one", "0.5 0 0.5 1", "0 0 2 1", "0, 0, nan, 1"])
def test_invalid_boxes_are_refused(text):
    with pytest.raises(FaceCDMError, match="boxes"):
        parse_boxes(text)


def test_commas_are_understood():
    assert torch.equal(parse_boxes("0, 0, 0.5, 1;\n\n.5;0;1;1".replace("1;\n", "1\n")), HALVES)


def test_a_black_layout_is_refused():
    with pytest.raises(FaceCDMError, match="black"):
        regions_of_layout(torch.zeros(8, 8, 3), 8, 8)


def test_a_painted_layout_keeps_the_share_of_an_area_that_it_covers():
    layout = torch.zeros(30, 30, 3)
    layout[:, ::3, 0] = 1  # red, every third column
    torch.testing.assert_close(regions_of_layout(layout, 10, 10, softness=0).masks, torch.full((1, 10, 10), 1 / 3))
