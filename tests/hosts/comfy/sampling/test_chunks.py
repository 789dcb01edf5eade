"""Neighbouring conditionings of a batch share one attention call if their streams have equally many tokens."""

import pytest
import torch


def layer(tokens: int, width: int = 8) -> list:
    return [(torch.zeros(1, tokens, width), torch.zeros(1, tokens, width))]


def test_chunks_with_equally_many_tokens_are_one_span(in_comfy):
    chunks = in_comfy.module("facecdm.hosts.comfy.sampling.chunks")
    layers = [layer(4), layer(4), layer(6), None, layer(6), [None]]
    assert [(first, count) for first, count, _ in chunks.spans(layers, 0)] == [(0, 2), (2, 1), (4, 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_fewer_poses_than_pictures_are_repeated_as_core_repeats_a_controlnets_pictures(in_comfy, count):
    from comfy.controlnet import broadcast_image_to

    run = in_comfy.module("facecdm.hosts.comfy.sampling.run")
    location = in_comfy.module("facecdm.adapter.location").FaceLocation(torch.rand(count, 5, 2), (8, 8), 4)
    given = run._for_images(location, 4, None).keypoints
    assert given.equal(broadcast_image_to(location.keypoints, 4, 1).expand(4, -1, -1))
    window = run._for_images(location, 2, (2, 3)).keypoints
    assert window.equal(given[2:]), "of a batch that is sampled part by part"


def test_fewer_references_than_pictures_repeat_the_last_one(in_comfy):
    chunks = in_comfy.module("facecdm.hosts.comfy.sampling.chunks")
    assert chunks.rows_for_images(torch.arange(2).view(2, 1, 1), 4, None).flatten().tolist() == [0, 1, 1, 1]
