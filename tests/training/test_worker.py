"""The processes that train together."""

import torch

from facecdm.training.worker import ALONE, Worker


def test_gradients_are_averaged_in_place_in_one_message():
    messages = []

    def mean(value):
        messages.append(value.clone())
        return value / 2

    gradients = [torch.arange(6.0).view(2, 3), torch.tensor(8.0), torch.ones(2, 1, 2)]
    before = [gradient.clone() for gradient in gradients]
    Worker(1, 2, mean).average(gradients)
    assert len(messages) == 1 and messages[0].tolist() == [0, 1, 2, 3, 4, 5, 8, 1, 1, 1, 1]
    assert all(torch.equal(gradient, old / 2) for gradient, old in zip(gradients, before))


def test_a_process_alone_sends_nothing():
    gradient = torch.ones(3)
    ALONE.average([gradient])
    assert Worker.of(None) is ALONE and torch.equal(gradient, torch.ones(3))
