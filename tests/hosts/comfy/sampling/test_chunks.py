"""Neighbouring conditionings of a batch share one attention call if their streams have equally many tokens."""

import torch


def layer(tokens: int, width: int = 8) -> list:
    return [(torch.zeros(1, tokens, width), torch.zeros(1, tokens, width))]


def test_chunks_with_equally_many_tokens_are_one_span(in_comfy):
    chunks = in_comfy.module("facecdm.hosts.comfy.sampling.chunks")
    layers = [layer(4), layer(4), layer(6), None, layer(6), [None]]
    assert [(first, count) for first, count, _ in chunks.spans(layers, 0)] == [(0, 2), (2, 1), (4, 1)]
