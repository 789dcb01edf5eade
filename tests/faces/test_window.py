"""Windows: cutting and putting back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.faces.window import window_around


@given(st.floats(-20, 130), st.floats(-20, 90), st.floats(1, 150), st.floats(0, 3), st.integers(64, 512))
@settings(max_examples=100, deadline=None)
def test_a_window_is_in_the_picture_and_never_smaller_than_itself(x, y, side, padding, guide):
    window = window_around(torch.tensor([x, y, x + side, y + side * 1.2]), 80, 120, padding, guide)
    assert 0 <= window.x0 < window.x1 <= 120 and 0 <= window.y0 < window.y1 <= 80
    height, width = window.size
    assert height % 8 == width % 8 == 0
    assert max(height, width) >= min(guide, 512) - 8 and height >= window.y1 - window.y0 - 4
    assert abs(height / width - (window.y1 - window.y0) / (window.x1 - window.x0)) <= 8 / min(height, width) + 0.2


def test_the_face_is_in_the_middle_where_there_is_room():
    window = window_around(torch.tensor([50.0, 40, 70, 60]), 100, 120, 0.5, 64)
    assert (window.x0, window.y0, window.x1, window.y1) == (40, 30, 80, 70) and window.size == (64, 64)
    edge = window_around(torch.tensor([0.0, 40, 20, 60]), 100, 120, 0.5, 64)
    assert (edge.x0, edge.x1) == (0, 40), "moved into the picture"


@pytest.mark.parametrize("step", [8, 16])
def test_the_sides_are_multiples_of_what_the_vae_encodes(step):
    """Also of a window that the picture cuts."""
    window = window_around(torch.tensor([10.0, 10, 80, 80]), 100, 200, 0.5, 256, step)
    assert max(window.size) >= 256 and min(window.size) < 256 and all(side % step == 0 for side in window.size)


def test_putting_back_an_unchanged_window_changes_nothing():
    picture = torch.rand(60, 90, 3)
    window = window_around(torch.tensor([30.0, 20, 50, 40]), 60, 90, 0.5, 40)
    assert torch.equal(window.put_back(picture, window.enlarged(picture)[0], torch.ones(60, 90)), picture)


def test_outside_of_the_mask_nothing_changes():
    picture, mask = torch.rand(60, 90, 4), torch.zeros(60, 90)
    mask[25:35, 35:45] = 0.5
    window = window_around(torch.tensor([30.0, 20, 50, 40]), 60, 90, 0.5, 128)
    result = window.put_back(picture, torch.zeros(128, 128, 3)[..., :1].expand(-1, -1, 4), mask)
    changed = (result != picture).any(-1)
    assert torch.equal(changed, mask > 0)
    torch.testing.assert_close(result[30, 40], picture[30, 40] / 2)


@pytest.mark.parametrize("scale", [1, 2, 0.125])
def test_a_mask_of_any_size_is_cut_at_the_same_place(scale):
    window = window_around(torch.tensor([32.0, 16, 48, 32]), 64, 96, 0.5, 64)  # x 24…56, y 8…40
    mask = torch.zeros(round(64 * scale), round(96 * scale))
    mask[round(8 * scale) : round(40 * scale), round(24 * scale) : round(56 * scale)] = 1
    assert window.cut(mask).shape == (round(32 * scale), round(32 * scale)) and window.cut(mask).eq(1).all()
