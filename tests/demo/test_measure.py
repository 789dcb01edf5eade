"""Precision and recall of sets of features."""

import torch

from facecdm.demo.measure import precision_recall


def test_the_same_set_is_precise_and_complete():
    torch.manual_seed(0)
    points = torch.randn(200, 4)
    other = torch.randn(200, 4)
    assert precision_recall(points, points) == (1.0, 1.0)
    precision, recall = precision_recall(points, other)
    assert precision > 0.8 and recall > 0.8


def test_one_mode_of_two_is_precise_and_not_complete():
    torch.manual_seed(0)
    near, far = torch.randn(100, 4), torch.randn(100, 4) + 50
    precision, recall = precision_recall(torch.cat([near, far]), torch.randn(200, 4))
    assert precision > 0.8 and 0.4 < recall < 0.6


def test_other_people_are_neither():
    torch.manual_seed(0)
    assert precision_recall(torch.randn(50, 4), torch.randn(50, 4) + 100) == (0.0, 0.0)
