import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecdm.faces.align import TEMPLATE, aligned_crop, ellipse_mask, similarity, to_crop

POINTS = np.array([[204.1, 100.6], [246.8, 103.6], [223.8, 129.2], [202.0, 139.7], [245.7, 142.3]])


def picture() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[..., ::-1])


@given(st.floats(0.05, 20), st.floats(-np.pi, np.pi), st.tuples(st.floats(-500, 500), st.floats(-500, 500)))
def test_a_similarity_is_found_again(scale, angle, shift):
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity(TEMPLATE, TEMPLATE @ turn.T + shift)
    assert np.allclose(found, np.hstack([turn, np.reshape(shift, (2, 1))]), atol=1e-6 * max(1, scale) * 100)


def test_a_mirrored_face_is_not_mirrored_back():
    matrix = similarity(TEMPLATE * [-1, 1], TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


def test_coinciding_points_are_refused():
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), TEMPLATE)


@pytest.mark.parametrize("size", [112, 224, 448])
def test_crop_is_insightfaces_own(size):
    from insightface.utils.face_align import norm_crop

    theirs = norm_crop(picture(), POINTS.astype(np.float32), size)
    ours = aligned_crop(picture(), POINTS, size)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2


def test_a_large_face_is_antialiased_and_not_shifted():
    import cv2

    big = cv2.resize(picture(), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(0)
    big = np.clip(big + rng.normal(0, 40, big.shape), 0, 255).astype(np.uint8)  # grain that must average out
    small = aligned_crop(picture(), POINTS, 112).astype(int)
    points = (POINTS + 0.5) * 5 - 0.5
    shrunk = aligned_crop(big, points, 112).astype(int)
    jagged = cv2.warpAffine(big, to_crop(points, 112), (112, 112)).astype(int)
    assert np.abs(small - shrunk).mean() < 0.4 * np.abs(small - jagged).mean()


def test_averaging_first_shifts_nothing():
    import cv2

    big = cv2.resize(picture(), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    small = aligned_crop(picture(), POINTS, 112)
    shrunk = aligned_crop(big, (POINTS + 0.5) * 5 - 0.5, 112)
    grey = [cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).astype(np.float32) for crop in (small, shrunk)]
    (dx, dy), _ = cv2.phaseCorrelate(*grey)
    assert abs(dx) < 0.1 and abs(dy) < 0.1


def test_margin_shows_more_around_the_same_face():
    tight, wide = aligned_crop(picture(), POINTS, 96), aligned_crop(picture(), POINTS, 192, margin=0.5)
    assert np.abs(wide[48:144, 48:144].astype(int) - tight).mean() < 1
    assert np.allclose(to_crop(POINTS, 192, 0.5) @ np.append(POINTS.mean(0), 1) - 48,
                       to_crop(POINTS, 96) @ np.append(POINTS.mean(0), 1))  # fmt: skip


def test_mask_is_soft_and_where_the_face_is():
    mask = ellipse_mask(POINTS, 512, 512, grow=1.0, feather=0.2)
    assert mask.dtype == np.float32 and mask.min() == 0 and mask.max() == 1
    assert all(mask[int(y), int(x)] == 1 for x, y in POINTS)
    assert mask[300:, :].max() == 0 and mask[110, 320] == 0
    soft = ((mask > 0) & (mask < 1)).sum()
    assert soft > 500
    assert ((ellipse_mask(POINTS, 512, 512, 1.0, 0.0) % 1) > 0).sum() < 20
    small, large = (ellipse_mask(POINTS, 512, 512, grow, 0.0).sum() for grow in (0.7, 1.4))
    assert large / small == pytest.approx(4, rel=0.02)


def test_mask_turns_with_the_head():
    upright = ellipse_mask(POINTS, 512, 512, 1.0, 0.0)
    turned = ellipse_mask(np.stack([511 - POINTS[:, 1], POINTS[:, 0]], 1), 512, 512, 1.0, 0.0)
    assert np.abs(np.rot90(upright, -1) - turned).mean() < 1e-3
