import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facecdm.errors import FaceCDMError, Mismatch, NoFace
from facecdm.faces import Faces
from facecdm.faces.combine import Weighted, combine, mean_direction, slerp
from facecdm.faces.value import BadFace

WEIGHTS = st.lists(st.floats(0, 10), min_size=1, max_size=4).filter(lambda weights: sum(weights) > 1e-3)


def groups(make_faces, weights):
    return [Weighted(make_faces(1 + i % 3, seed=i), weight) for i, weight in enumerate(weights)]


@given(weights=WEIGHTS, data=st.data())
def test_weighted_mean(make_faces, weights, data):
    parts = groups(make_faces, weights)
    made = combine(parts)
    assert len(made) == 1 and made.normed.norm() == pytest.approx(1, abs=1e-5)
    # the raw length lies between those of the groups, so it was not divided away
    lengths = [mean_direction(part.faces)[1] for part in parts if part.weight > 0]
    assert min(lengths) - 1e-3 <= made.raw.norm() <= max(lengths) + 1e-3
    # nothing depends on the order, nor on the scale of the weights
    shuffled = combine(data.draw(st.permutations(parts)))
    assert torch.allclose(shuffled.raw, made.raw, atol=1e-4)
    scaled = combine([Weighted(part.faces, part.weight * 3) for part in parts])
    assert torch.allclose(scaled.raw, made.raw, atol=1e-4)
    # a group of weight 0 might as well not be there
    assert torch.allclose(combine([p for p in parts if p.weight > 0]).raw, made.raw, atol=1e-4)


def test_mean_is_over_the_features_not_the_batch(make_faces):
    """The fault of a well-known pack: dividing by the norm over the batch axis."""
    a, b = make_faces(seed=1), make_faces(seed=2)
    made = combine([Weighted(a, 1), Weighted(b, 3)])
    expected = torch.nn.functional.normalize(a.normed + 3 * b.normed, dim=-1)
    assert torch.allclose(made.normed, expected, atol=1e-6)


def test_a_group_counts_as_one_however_many_photos_it_has(make_faces):
    a, b = make_faces(seed=1), make_faces(seed=2)
    many = Faces(a.faces * 5, a.recogniser)
    assert torch.allclose(combine([Weighted(many), Weighted(b)]).raw, combine([Weighted(a), Weighted(b)]).raw)


@given(st.floats(0, 1))
def test_blend_moves_along_the_arc(make_faces, factor):
    a, b = make_faces(seed=1), make_faces(seed=2)
    made = combine([Weighted(a), Weighted(b)], "blend two people", factor)
    angle = lambda x, y: float(torch.arccos((x.normed * y.normed).sum().clamp(-1, 1)))  # noqa: E731
    assert made.normed.norm() == pytest.approx(1, abs=1e-5)
    assert angle(a, made) == pytest.approx(factor * angle(a, b), abs=2e-3)
    assert angle(made, b) == pytest.approx((1 - factor) * angle(a, b), abs=2e-3)


def test_blend_ends_are_the_people(make_faces):
    a, b = make_faces(seed=1), make_faces(seed=2)
    for factor, end in ((0.0, a), (1.0, b)):
        made = combine([Weighted(a), Weighted(b)], "blend two people", factor)
        assert torch.allclose(made.raw, end.raw, atol=1e-4)
        assert made[0].crop.equal(end[0].crop)


def test_a_combined_face_has_the_picture_of_the_nearest_face(make_faces):
    a, b = make_faces(seed=1), make_faces(seed=2)
    assert combine([Weighted(a, 1), Weighted(b, 9)])[0].crop.equal(b[0].crop)
    assert combine([Weighted(a), Weighted(b)])[0].name == "mean of person 1.0, person 2.0"


def test_concatenate_keeps_all_but_those_of_weight_zero(make_faces):
    parts = [
        Weighted(make_faces(2, seed=1)),
        Weighted(make_faces(1, seed=2), 0),
        Weighted(make_faces(3, seed=3)),
    ]
    made = combine(parts, "concatenate")
    assert [face.name for face in made] == [f"person {s}.{i}" for s, n in ((1, 2), (3, 3)) for i in range(n)]


def test_refusals(make_faces):
    a, b = make_faces(seed=1), make_faces(seed=2)
    empty = Faces((), "pack/r.onnx")
    other = make_faces(recogniser="other/glintr100.onnx")
    with pytest.raises(Mismatch, match="glintr100"):
        combine([Weighted(a), Weighted(other)])
    with pytest.raises(NoFace, match="Combine Faces"):
        combine([Weighted(empty)])
    with pytest.raises(NoFace, match="weight is 0"):
        combine([Weighted(a, 0)], "concatenate")
    with pytest.raises(FaceCDMError, match="above 0"):
        combine([Weighted(a, 0), Weighted(b, 0)])
    with pytest.raises(FaceCDMError, match="two FACES"):
        combine([Weighted(a), Weighted(empty)], "blend two people")
    with pytest.raises(FaceCDMError, match="between 0 and 1"):
        combine([Weighted(a), Weighted(b)], "blend two people", 1.5)
    with pytest.raises(FaceCDMError, match="mode is 'median'"):
        combine([Weighted(a)], "median")
    assert combine([Weighted(empty), Weighted(a)]).raw.allclose(a.raw)


def test_opposite_faces_have_no_mean():
    x = torch.nn.functional.normalize(torch.arange(1.0, 9), dim=0)
    with pytest.raises(BadFace, match="opposite"):
        slerp(x, -x, 0.5)
    assert torch.allclose(slerp(x, x, 0.3), x, atol=1e-6)
