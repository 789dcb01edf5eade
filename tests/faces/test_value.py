from dataclasses import replace

import pytest
import torch

from facecdm.errors import FaceCDMError, Mismatch, NoFace
from facecdm.faces.combine import MODES, Weighted, combine
from facecdm.faces.compare import compare
from facecdm.faces.value import BadFace, Faces, require_same_recogniser, same_recogniser


def test_raw_and_normed(make_faces):
    faces = make_faces(3)
    assert faces.raw.shape == faces.normed.shape == (3, 16)
    assert torch.allclose(faces.normed.norm(dim=-1), torch.ones(3), atol=1e-6)
    assert not torch.allclose(faces.raw.norm(dim=-1), torch.ones(3), atol=0.1)
    assert torch.allclose(torch.nn.functional.normalize(faces.raw, dim=-1), faces.normed, atol=1e-6)
    assert [face.image_index for face in faces] == [0, 1, 2] and faces[1] is faces.faces[1]


def test_empty_faces_are_valid_and_refused_where_a_face_is_needed():
    empty = Faces((), "pack/r.onnx")
    assert len(empty) == 0 and empty.raw.shape == (0, 0) and empty.dim == 0
    with pytest.raises(NoFace, match="Apply FaceCDM holds no face"):
        empty.required("Apply FaceCDM")


@pytest.mark.parametrize(
    "change",
    [
        {"embedding": torch.full((16,), float("nan"))},
        {"embedding": torch.zeros(16)},
        {"embedding": torch.ones(2, 16)},
        {"embedding": torch.ones(0)},
        {"embedding": torch.ones(16, dtype=torch.float64)},
        {"embedding": [1.0, 2.0]},
        {"keypoints": torch.ones(6, 2)},
        {"keypoints": torch.full((5, 2), float("inf"))},
        {"box": torch.ones(5)},
        {"crop": torch.ones(8, 8)},
        {"landmarks": torch.ones(68, 2)},
    ],
    ids=lambda change: f"{next(iter(change))}-{getattr(next(iter(change.values())), 'shape', 'list')}",
)
def test_a_bad_face_is_refused(make_faces, change):
    with pytest.raises(BadFace, match="face"):
        replace(make_faces()[0], **change)


def test_different_sizes_do_not_mix(make_faces):
    with pytest.raises(Mismatch, match="different sizes"):
        Faces(make_faces(dim=16).faces + make_faces(dim=8).faces, "pack/r.onnx")


def test_inference_tensors_are_copied_out_so_that_training_may_use_them(make_faces):
    with torch.inference_mode():
        face = replace(make_faces()[0], embedding=torch.randn(16))
    assert not face.embedding.is_inference() and not face.crop.is_inference()


def test_a_recogniser_in_two_packs_is_the_same(make_faces):
    assert same_recogniser("buffalo_s/w600k_mbf.onnx", "buffalo_sc\\W600K_mbf.onnx")
    assert not same_recogniser("buffalo_s/w600k_mbf.onnx", "buffalo_l/w600k_r50.onnx")
    antelope, aura = "antelopev2/glintr100.onnx", "auraface/glintr100.onnx"
    assert same_recogniser(antelope, "my antelope/glintr100.onnx") and same_recogniser(
        aura, "AuraFace-v1/glintr100.onnx"
    )
    assert not same_recogniser(antelope, aura), "AuraFace's file has the same name"
    faces = [make_faces(recogniser="a/x.onnx"), make_faces(recogniser="b/y.onnx"), Faces((), "c/z.onnx")]
    with pytest.raises(Mismatch, match="a/x.onnx; b/y.onnx"):
        require_same_recogniser(faces, "Two faces")
    require_same_recogniser([faces[0], faces[2]], "Empty faces do not count")


def test_names(make_faces):
    assert [face.name for face in make_faces(2).named("Ada")] == ["Ada 1", "Ada 2"]
    assert make_faces(1).named("Ada")[0].name == "Ada"
    assert make_faces(1).named("")[0].name == "person 0.0"


def test_embeddings_of_one_recogniser_and_of_different_sizes_do_not_mix(make_faces):
    """As a damaged or forged face file would bring them."""
    small, large = make_faces(2, seed=1, dim=16), make_faces(2, seed=2, dim=32)
    for mode in MODES:
        with pytest.raises(Mismatch, match="embeddings of different sizes \\(16, 32\\)"):
            combine([Weighted(small), Weighted(large)], mode)
    with pytest.raises(Mismatch, match="different sizes"):
        compare(small, large)
    with pytest.raises(Mismatch, match="different sizes"):
        compare(small, baseline=large)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0, 0.0])
def test_weights_that_make_no_mean_are_refused(make_faces, weight):
    with pytest.raises(FaceCDMError, match="Weights must be"):
        combine([Weighted(make_faces(1), weight)])


@pytest.mark.parametrize(
    "change", [{"score": float("nan")}, {"score": -1.0}, {"image_size": (0, 5)}, {"image_index": -1}], ids=str
)
def test_numbers_of_a_face_are_checked(make_faces, change):
    with pytest.raises(BadFace, match="detect the face again"):
        replace(make_faces(1)[0], **change)
