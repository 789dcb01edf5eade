from dataclasses import replace

import pytest
import torch

from facecdm.errors import Mismatch, NoFace
from facecdm.faces import Faces
from facecdm.faces.compare import compare, table
from facecdm.faces.draw import heat_map


def test_among_themselves_the_diagonal_does_not_count(make_faces):
    faces = make_faces(3)
    result = compare(faces)
    expected = torch.nn.functional.cosine_similarity(faces.raw[:, None], faces.raw[None], dim=-1)
    assert torch.allclose(result.matrix, expected, atol=1e-6)
    off = expected[~torch.eye(3, dtype=torch.bool)]
    assert (result.mean, result.lowest, result.highest) == pytest.approx(
        (float(off.mean()), float(off.min()), float(off.max())), abs=1e-6
    )


def test_two_groups(make_faces):
    a, b = make_faces(2, seed=1), make_faces(3, seed=2)
    result = compare(a, b)
    assert result.matrix.shape == (2, 3)
    assert result.mean == pytest.approx(float((a.normed @ b.normed.T).mean()), abs=1e-6)
    assert compare(make_faces(1)).mean == pytest.approx(1)


def test_baseline_takes_away_what_all_pictures_share(make_faces):
    """Embeddings with a common bias look alike until the bias of other people is subtracted."""
    bias = torch.full((64,), 8.0)

    def biased(seed, count):
        plain = make_faces(count, seed=seed, dim=64)
        return Faces(tuple(replace(face, embedding=face.embedding + bias) for face in plain), plain.recogniser)

    a, b, others = biased(1, 2), biased(2, 2), biased(3, 40)
    assert compare(a, b).mean > 0.6
    assert abs(compare(a, b, others).mean) < 0.2


def test_baseline_on_faceworld(analyzer, faceworld):
    from facecdm.faces.detect import detect_faces

    a, b = (detect_faces(analyzer, views).faces for views in faceworld.values())
    halves = Faces((a[2], b[2]), a.recogniser)  # other pictures of the same kind
    plain = compare(Faces(a.faces[:2], a.recogniser), Faces(b.faces[:2], a.recogniser))
    centred = compare(plain.rows, plain.columns, halves)
    assert centred.mean < plain.mean - 0.1


def test_refusals(make_faces):
    empty = Faces((), "pack/r.onnx")
    with pytest.raises(NoFace, match="Faces A"):
        compare(empty)
    with pytest.raises(NoFace, match="Faces B"):
        compare(make_faces(), empty)
    with pytest.raises(NoFace, match="baseline"):
        compare(make_faces(), None, empty)
    with pytest.raises(Mismatch):
        compare(make_faces(), make_faces(recogniser="x/y.onnx"))


def test_table(make_faces):
    a, b = make_faces(2).named("Ada"), make_faces(1, seed=5).named("B|b\nc")
    lines = table(compare(a, b)).splitlines()
    assert lines[0].startswith("Similarity (cosine): mean ")
    assert lines[2:4] == ["| | B/b c |", "|---|---|"]
    assert lines[4].startswith("| Ada 1 | ") and len(lines) == 6


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (2, 40), (300, 2)])
def test_heat_map_is_a_picture_of_the_matrix(make_faces, rows, columns):
    result = compare(make_faces(rows, size=32), make_faces(columns, seed=9, size=32))
    picture = heat_map(result)
    assert picture.shape[0] == 1 and picture.shape[-1] == 3 and 0 <= picture.min() and picture.max() <= 1
    assert picture.shape[1] < 4000 and picture.shape[2] < 4000
    brighter = replace(result, matrix=torch.ones_like(result.matrix))
    assert heat_map(brighter).mean() > heat_map(replace(result, matrix=result.matrix * 0)).mean() + 0.02
