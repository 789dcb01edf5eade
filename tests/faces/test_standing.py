"""The tokens that a layer's positions attend to, given the location of a face."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facecdm.adapter.attention import LayerStream, attend, triplet_attention
from facecdm.adapter.location import FaceLocation, FaceLocations, token_centres
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import FADES, REACH, SIZE

UPRIGHT = torch.tensor(TEMPLATE)[None] / SIZE  # a face that fills the picture as it fills the recogniser's crop


def test_every_position_attends_most_to_the_nearest_token():
    """The face is half as wide as a picture of 24 × 24 latents; the nearest token is computed by hand."""
    keypoints = UPRIGHT / 2 + 0.25
    near, scores, face = FaceLocation(keypoints, (24, 24), 6)(24 * 24)
    assert near.shape == scores.shape == (1, 576, 9) and face.shape == (1, 576, 1)
    for row, column in ((12, 12), (9, 14), (6, 6), (17, 12)):
        at = torch.tensor([(column + 0.5) / 24, (row + 0.5) / 24]) * 4 - 2  # half crops from its middle
        apart = (token_centres(6) - at).square().sum(1)
        place = row * 24 + column
        assert near[0, place, scores[0, place].argmax()] == apart.argmin()
        beside = sorted(set(range(36)) - set(near[0, place].tolist()))
        assert apart[beside].min() > 1.4**2 * (2 * REACH / 6) ** 2, "the other tokens are further away"
    inside = face.view(24, 24)
    assert inside[12, 12] == 1 and inside[0, 0] == 0 and (inside[:, 12] > 0).sum() >= 2 * REACH / 4 * 24 - 1
    assert 2 * (REACH + FADES) / 4 * 24 + 1 >= (inside[:, 12] > 0).sum()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31))
def test_scores_are_finite_wherever_a_face_is(height, width, side, seed):
    """Tiny, huge, rotated, outside of the picture: half precision holds every score, and every position has a token."""
    points = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(seed)) * 4 - 1.5
    points[1] = points[1, :1] + (points[1] - points[1, :1]) * 1e-3
    near, scores, face = FaceLocation(points, (height, width), side)(height * width)
    assert near.ge(0).all() and near.lt(side * side).all() and near.sort(-1).values.diff(dim=-1).gt(0).all()
    assert scores.half().isfinite().all() and (scores.amax(-1) == 0).all()
    assert face.ge(0).all() and face.le(1).all()


def test_a_layers_bias_is_computed_once():
    location = FaceLocation(UPRIGHT, (16, 16), 4)
    assert location(64) is location(64) and location(64)[1].shape == (1, 64, 9)


def test_a_layer_of_any_size_covers_the_whole_picture():
    """Some patches shrink a U-Net's middle by other factors than two, such as three quarters."""
    points = UPRIGHT * 0.5 + 0.3
    near, scores, face = FaceLocation(points, (16, 24), 4, (6, 9))(54)
    assert scores.shape == (1, 54, 9) and face.shape == (1, 54, 1)
    same, again, _ = FaceLocation(points, (6, 9), 4)(54)
    assert torch.equal(near, same)
    torch.testing.assert_close(scores, again, rtol=1e-5, atol=1e-4)


def test_an_area_has_its_part_of_the_bias():
    """The bias of the lower right quarter is that of the whole picture there."""
    location = FaceLocation(UPRIGHT * 0.6 + 0.3, (16, 24), 4)
    whole = [one.view(16, 24, -1)[8:, 12:] for one in location(16 * 24)]
    part = [one.view(8, 12, -1) for one in location.within((8, 12, 8, 12))(8 * 12)]
    torch.testing.assert_close(part, whole)


def test_chunks_are_concatenated():
    one, other = FaceLocation(UPRIGHT, (8, 8), 2), FaceLocation(UPRIGHT * 0.5, (8, 8), 2)
    near, scores, face = FaceLocations([one, other])(64)
    assert torch.equal(near[:1], one(64)[0]) and torch.equal(scores[:1], one(64)[1])
    assert torch.equal(face[1:], other(64)[2]) and FaceLocations([one, other]).tokens == 4
    assert torch.equal(FaceLocations([one, other]).everywhere(64)[1:], other.everywhere(64))


def test_a_position_gives_no_weight_to_other_tokens():
    location = FaceLocation(UPRIGHT, (16, 16), 8)
    near, scores, _ = location(256)
    everywhere = location.everywhere(256)
    assert everywhere is location.everywhere(256) and everywhere.shape == (1, 256, 64)
    assert torch.equal(everywhere.gather(2, near), scores) and everywhere.isfinite().sum() == 256 * 9


class RandomBias:
    """Six tokens; each position attends to three of them."""

    def __init__(self, rows: int, draw: torch.Generator):
        self.tokens = 6
        self.near = torch.rand(rows, 5, 6, generator=draw).argsort(-1)[..., :3]
        self.scores = torch.randn(rows, 5, 3, generator=draw, dtype=torch.float64)

    def __call__(self, positions: int, dtype: torch.dtype):
        return self.near, self.scores, torch.ones(1, positions, 1, dtype=dtype)

    def everywhere(self, positions: int, dtype: torch.dtype):
        return torch.full((len(self.near), positions, 6), -torch.inf, dtype=dtype).scatter(2, self.near, self.scores)


@pytest.mark.parametrize("keys, rows", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("projected", [False, True])
def test_attention_to_near_tokens_equals_the_slow_formula(keys, rows, references, projected):
    """softmax(q kᵀ/√d + s) v, where s is −∞ for other tokens, and the same for each reference's tokens."""
    draw = torch.Generator().manual_seed(0)
    q, tokens = (
        torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((2, 5, 8), (keys, 6 * references, 7))
    )
    to_k, to_v = torch.randn(2, 8, 7, generator=draw, dtype=torch.float64)
    where, k, v = RandomBias(rows, draw), tokens @ to_k.T, tokens @ to_v.T
    everywhere = torch.cat([where.everywhere(5, torch.float64)] * references, -1)
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
    weights = (heads[0] @ heads[1].transpose(2, 3) / 2 + everywhere[:, None]).softmax(-1)
    expected = (weights @ heads[2]).transpose(1, 2).flatten(2)
    shown = (tokens, tokens) if projected else (k, v)
    for some in (slice(None), slice(1)):  # many positions: all tokens with a bias; few positions: gathered tokens
        where.near, where.scores = where.near[:, some], where.scores[:, some]
        stream = LayerStream(
            0,
            2,
            *shown,
            torch.ones(8, dtype=torch.float64),
            location=where,
            project=(lambda x: (x @ to_k.T, x @ to_v.T)) if projected else None,
        )
        result = triplet_attention(q[:, some], torch.zeros_like(q[:, some]), [stream], 2, attend)
        torch.testing.assert_close(result, expected[:, some])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_to_single(dtype):
    """In a whole layer. Positions outside of the face keep the text's attention to the bit."""
    draw = torch.Generator().manual_seed(1)
    q, text = torch.randn(2, 2, 256, 32, generator=draw)
    k, v = torch.randn(2, 1, 16, 32, generator=draw)
    where = FaceLocation(UPRIGHT.float() * 0.4 + 0.1, (16, 16), 4)
    exact, rough = (
        triplet_attention(
            q.to(kind),
            text.to(kind),
            [LayerStream(0, 2, k.to(kind), v.to(kind), torch.ones(32, dtype=kind), location=where)],
            2,
            attend,
        )
        for kind in (torch.float32, dtype)
    )
    torch.testing.assert_close(rough.float(), exact, rtol=0.03, atol=0.03)
    beyond = where(256, dtype)[2][0, :, 0] == 0
    assert beyond.any() and torch.equal(rough[:, beyond], text.to(dtype)[:, beyond])
    assert where(256, dtype)[1].dtype == dtype
