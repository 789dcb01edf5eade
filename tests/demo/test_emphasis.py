"""Noise levels and positions that the U-Net's training emphasises."""

import numpy as np
import torch

from facecdm.demo.emphasis import FACE_WEIGHT, MIDDLE, MIDDLE_SHARE, FaceWeights, noise_levels
from facecdm.demo.poses import KeyPoints


def test_the_middle_levels_get_their_share_and_all_levels_occur():
    levels = noise_levels(10000, torch.Generator().manual_seed(0))
    low, high = MIDDLE
    share = ((levels >= low) & (levels < high)).float().mean()
    even = (1 - MIDDLE_SHARE) * (high - low) / 1000
    assert abs(share - (MIDDLE_SHARE + even)) < 0.01
    assert levels.min() < 5 and levels.max() > 994


def test_levels_depend_on_the_generator_alone():
    one, same, other = (noise_levels(8, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def key_points(x: float, y: float, size: float) -> KeyPoints:
    five = [(x - size / 2, y - size / 2), (x + size / 2, y - size / 2), (x, y)]
    five += [(x - size / 2, y + size / 2), (x + size / 2, y + size / 2)]
    points = np.concatenate([np.array([five]), np.zeros((1, 106, 2))], 1)
    return KeyPoints(np.array([2]), points.astype(np.float32))


def test_positions_in_the_face_weigh_more():
    weights = FaceWeights(key_points(0.28125, 0.53125, 0.1), 4)([2], [False], 16)
    assert weights.shape == (1, 1, 16, 16) and abs(weights.mean() - 1) < 1e-6
    assert divmod(int(weights.argmax()), 16) == (8, 4)
    assert abs(weights.max() / weights[0, 0, 0, 15] - FACE_WEIGHT) < 1e-3


def test_a_mirrored_picture_has_mirrored_weights():
    weights = FaceWeights(key_points(0.28125, 0.53125, 0.1), 4)
    assert torch.allclose(weights([2], [True], 16), weights([2], [False], 16).flip(-1), atol=1e-6)


def test_a_picture_without_a_face_has_equal_weights():
    assert (FaceWeights(key_points(0.5, 0.5, 0.1), 4)([1], [True], 4) == 1).all()
