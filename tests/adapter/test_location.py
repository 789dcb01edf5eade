"""Positions of a layer in the coordinates of an aligned face, and attention limited to near tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facecdm.adapter.attention import LayerStream, attend, triplet_attention
from facecdm.adapter.location import FaceLocation, FaceLocations, token_centres
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import FADES, REACH, SIZE, aligned_coordinates

UPRIGHT = torch.tensor(TEMPLATE)[None] / SIZE  # a face that fills the picture as it fills the recogniser's crop


def test_every_position_scores_the_nearest_token_highest():
    """A face half as wide as a picture of 24 × 24 latents, and the nearest token computed here."""
    keypoints = UPRIGHT / 2 + 0.25
    near, scores, face = FaceLocation(keypoints, (24, 24), 6)(24 * 24)
    assert near.shape == scores.shape == (1, 576, 9) and face.shape == (1, 576, 1)
    for row, column in ((12, 12), (9, 14), (6, 6), (17, 12)):
        at = torch.tensor([(column + 0.5) / 24, (row + 0.5) / 24]) * 4 - 2  # half crops from its middle
        distances = (token_centres(6) - at).square().sum(1)
        position = row * 24 + column
        assert near[0, position, scores[0, position].argmax()] == distances.argmin()
        beside = sorted(set(range(36)) - set(near[0, position].tolist()))
        assert distances[beside].min() > 1.4**2 * (2 * REACH / 6) ** 2, "tokens that are not near are further away"
    inside = face.view(24, 24)
    assert inside[12, 12] == 1 and inside[0, 0] == 0 and (inside[:, 12] > 0).sum() >= 2 * REACH / 4 * 24 - 1
    assert 2 * (REACH + FADES) / 4 * 24 + 1 >= (inside[:, 12] > 0).sum()


def test_scores_fall_by_a_gaussian_of_four_tenths_of_the_tokens_distance():
    keypoints, size = UPRIGHT / 2 + 0.25, (24, 24)
    near, scores, _ = FaceLocation(keypoints, size, 6)(24 * 24)
    at = aligned_coordinates(keypoints, size, size)[0, :, None, :2]
    squared = (token_centres(6)[near[0]] - at).square().sum(-1) / (2 * REACH / 6) ** 2
    expected = -squared / (2 * 0.4**2)
    torch.testing.assert_close(scores[0], (expected - expected.amax(-1, keepdim=True)).float(), atol=1e-4, rtol=1e-4)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31))
def test_scores_are_finite_for_any_face_location(height, width, side, seed):
    """Tiny, huge, rotated, beyond the picture: every score fits half precision, and every position has near tokens."""
    points = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(seed)) * 4 - 1.5
    points[1] = points[1, :1] + (points[1] - points[1, :1]) * 1e-3
    near, scores, face = FaceLocation(points, (height, width), side)(height * width)
    assert near.ge(0).all() and near.lt(side * side).all() and near.sort(-1).values.diff(dim=-1).gt(0).all()
    assert scores.half().isfinite().all() and (scores.amax(-1) == 0).all()
    assert face.ge(0).all() and face.le(1).all()


def test_a_layers_result_is_cached():
    aligned_coordinates = FaceLocation(UPRIGHT, (16, 16), 4)
    assert aligned_coordinates(64) is aligned_coordinates(64) and aligned_coordinates(64)[1].shape == (1, 64, 9)


def test_a_layer_of_any_size_covers_the_whole_picture():
    """Other packs shrink the middle of the U-Net to sizes that are no halves, such as three quarters."""
    points = UPRIGHT * 0.5 + 0.3
    near, scores, face = FaceLocation(points, (16, 24), 4, (6, 9))(54)
    assert scores.shape == (1, 54, 9) and face.shape == (1, 54, 1)
    same, again, _ = FaceLocation(points, (6, 9), 4)(54)
    assert torch.equal(near, same)
    torch.testing.assert_close(scores, again, rtol=1e-5, atol=1e-4)


def test_an_area_equals_its_part_of_the_picture():
    """The lower right quarter equals that part of the whole picture."""
    aligned_coordinates = FaceLocation(UPRIGHT * 0.6 + 0.3, (16, 24), 4)
    whole = [one.view(16, 24, -1)[8:, 12:] for one in aligned_coordinates(16 * 24)]
    part = [one.view(8, 12, -1) for one in aligned_coordinates.within((8, 12, 8, 12))(8 * 12)]
    torch.testing.assert_close(part, whole)


def test_locations_of_chunks_are_concatenated():
    one, other = FaceLocation(UPRIGHT, (8, 8), 2), FaceLocation(UPRIGHT * 0.5, (8, 8), 2)
    near, scores, face = FaceLocations([one, other])(64)
    assert torch.equal(near[:1], one(64)[0]) and torch.equal(scores[:1], one(64)[1])
    assert torch.equal(face[1:], other(64)[2]) and FaceLocations([one, other]).tokens == 4
    assert torch.equal(FaceLocations([one, other]).everywhere(64)[1:], other.everywhere(64))


def test_tokens_that_are_not_near_have_no_weight():
    aligned_coordinates = FaceLocation(UPRIGHT, (16, 16), 8)
    near, scores, _ = aligned_coordinates(256)
    everywhere = aligned_coordinates.everywhere(256)
    assert everywhere is aligned_coordinates.everywhere(256) and everywhere.shape == (1, 256, 64)
    assert torch.equal(everywhere.gather(2, near), scores) and everywhere.isfinite().sum() == 256 * 9


class StubLocation:
    """Six tokens, three of them near each position."""

    def __init__(self, rows: int, rng: torch.Generator):
        self.tokens = 6
        self.near = torch.rand(rows, 5, 6, generator=rng).argsort(-1)[..., :3]
        self.scores = torch.randn(rows, 5, 3, generator=rng, dtype=torch.float64)

    def __call__(self, positions: int, dtype: torch.dtype):
        return self.near, self.scores, torch.ones(1, positions, 1, dtype=dtype)

    def everywhere(self, positions: int, dtype: torch.dtype):
        return torch.full((len(self.near), positions, 6), -torch.inf, dtype=dtype).scatter(2, self.near, self.scores)


@pytest.mark.parametrize("keys, rows", [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("references", [1, 2])
@pytest.mark.parametrize("projected", [False, True])
def test_attention_to_near_tokens_equals_the_slow_formula(keys, rows, references, projected):
    """softmax(q kᵀ/√d + s) v, where s is −∞ for tokens that are not near, equal for each reference."""
    rng = torch.Generator().manual_seed(0)
    q, tokens = (
        torch.randn(*size, generator=rng, dtype=torch.float64) for size in ((2, 5, 8), (keys, 6 * references, 7))
    )
    to_k, to_v = torch.randn(2, 8, 7, generator=rng, dtype=torch.float64)
    where, k, v = StubLocation(rows, rng), tokens @ to_k.T, tokens @ to_v.T
    everywhere = torch.cat([where.everywhere(5, torch.float64)] * references, -1)
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
    weights = (heads[0] @ heads[1].transpose(2, 3) / 2 + everywhere[:, None]).softmax(-1)
    expected = (weights @ heads[2]).transpose(1, 2).flatten(2)
    shown = (tokens, tokens) if projected else (k, v)
    for some in (slice(None), slice(1)):  # many positions attend to all tokens, few to gathered ones
        where.near, where.scores = where.near[:, some], where.scores[:, some]
        stream = LayerStream(
            0,
            2,
            *shown,
            torch.ones(8, dtype=torch.float64),
            location=where,
            project=(lambda x: (x @ to_k.T, x @ to_v.T)) if projected else None,
        )
        computed = triplet_attention(q[:, some], torch.zeros_like(q[:, some]), [stream], 2, attend)
        torch.testing.assert_close(computed, expected[:, some])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close(dtype):
    """To single precision, in a whole layer; beyond the face the text's attention is unchanged to the bit."""
    rng = torch.Generator().manual_seed(1)
    q, text = torch.randn(2, 2, 256, 32, generator=rng)
    k, v = torch.randn(2, 1, 16, 32, generator=rng)
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
