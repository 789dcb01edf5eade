import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facecdm.errors import FaceCDMError, NoFace
from facecdm.faces import search as search_module
from facecdm.faces.detect import Options, detect_faces, to_bgr
from facecdm.faces.detection import FaceDetection
from facecdm.faces.draw import draw_pictures
from facecdm.faces.search import dedupe, overlap, search
from facecdm.faces.turns import turned_picture, turned_points

CLOSE_UP = (
    slice(75, 165),
    slice(190, 265),
)  # rows, columns of the astronaut: chin, forehead and ears cut off


def cosine(a, b) -> float:
    return float((a.normed @ b.normed.T)[0, 0])


def resized(image, size):
    moved = torch.nn.functional.interpolate(image.movedim(-1, 1), size=size, mode="bicubic", antialias=True)
    return moved.movedim(1, -1).clamp(0, 1)


@pytest.fixture(scope="module")
def reference(analyzer, astronaut):
    return detect_faces(analyzer, astronaut)


@pytest.fixture(scope="module")
def three(faceworld):
    """One picture, three faces: middle-sized, big, small from left to right."""
    a, b = faceworld["0005"], faceworld["0006"]
    canvas = torch.full((1, 256, 640, 3), 0.5)
    for image, size, x in ((a[1:2], 190, 0), (b[0:1], 256, 200), (a[2:3], 150, 480)):
        canvas[:, :size, x : x + size] = resized(image, (size, size))
    return canvas


def test_embedding_is_insightfaces_own_on_the_same_file(face_models, reference, tmp_path):
    """Colour order, scaling and alignment at once: against FaceAnalysis on what cv2 reads."""
    import cv2
    from insightface.app import FaceAnalysis
    from skimage import data, io

    io.imsave(tmp_path / "astronaut.png", data.astronaut())
    folder = face_models / "models" / "insightface"
    app = FaceAnalysis("buffalo_s", root=str(folder), providers=["CPUExecutionProvider"],
                       allowed_modules=["detection", "recognition", "landmark_2d_106"])  # fmt: skip
    app.prepare(ctx_id=-1, det_size=(640, 640))
    (theirs,) = app.get(cv2.imread(str(tmp_path / "astronaut.png")))
    ours = reference.faces[0]
    assert np.allclose(ours.embedding.numpy(), theirs.embedding, atol=1e-4)
    assert np.allclose(ours.keypoints.numpy(), theirs.kps, atol=1e-3)
    assert np.allclose(ours.box.numpy(), theirs.bbox, atol=1e-3)
    assert np.allclose(ours.landmarks.numpy(), theirs.landmark_2d_106, atol=1e-3)
    assert ours.score == pytest.approx(float(theirs.det_score), abs=1e-5)


def test_swapped_colours_would_be_noticed(analyzer, astronaut, reference):
    swapped = detect_faces(analyzer, astronaut.flip(-1))
    assert cosine(swapped.faces, reference.faces) < 0.99


def test_fields_of_a_detected_face(reference):
    face = reference.faces[0]
    assert face.embedding.shape == (512,) and 5 < face.embedding.norm() < 40
    assert face.image_size == (512, 512) and face.image_index == 0
    assert face.crop.shape == (224, 224, 3) and reference.crops.shape == (1, 224, 224, 3)
    left, right, nose, left_mouth, right_mouth = face.keypoints
    assert left[0] < nose[0] < right[0] and left_mouth[0] < right_mouth[0] and left[1] < nose[1] < left_mouth[1]
    assert reference.faces.recogniser == "buffalo_s/w600k_mbf.onnx"


def test_a_close_up_needs_the_harder_search(analyzer, astronaut, reference):
    close = astronaut[:, CLOSE_UP[0], CLOSE_UP[1]]
    assert len(detect_faces(analyzer, close, Options(thorough=False)).faces) == 0
    found = detect_faces(analyzer, close)
    assert len(found.faces) == 1 and cosine(found.faces, reference.faces) > 0.8
    shifted = found.faces[0].keypoints + torch.tensor([190.0, 75.0])
    assert (shifted - reference.faces[0].keypoints).norm(dim=-1).max() < 8  # the face is 91 pixels wide
    assert torch.allclose(found.mask[0, 40, 35], torch.tensor(1.0))


def test_a_big_close_up(analyzer, astronaut, reference):
    close = resized(astronaut[:, CLOSE_UP[0], CLOSE_UP[1]], (1080, 900))
    assert len(detect_faces(analyzer, close, Options(thorough=False)).faces) == 0
    assert cosine(detect_faces(analyzer, close).faces, reference.faces) > 0.8


def test_a_small_picture(analyzer, astronaut, reference):
    found = detect_faces(analyzer, resized(astronaut, (128, 128)))
    assert len(found.faces) == 1 and cosine(found.faces, reference.faces) > 0.4
    head = detect_faces(analyzer, resized(astronaut[:, 30:220, 130:320], (128, 128)))
    assert cosine(head.faces, reference.faces) > 0.75


def test_identities_are_separated(analyzer, faceworld):
    a, b = (detect_faces(analyzer, views).faces.normed for views in faceworld.values())
    same = torch.cat([(x @ x.T)[torch.triu(torch.ones(3, 3), 1) > 0] for x in (a, b)])
    assert same.min() > (a @ b.T).max() + 0.1


def test_all_views_together_find_each_face_once(analyzer, astronaut, monkeypatch):
    monkeypatch.setattr(search_module, "UPRIGHT", 2.0)
    found = search(analyzer, to_bgr(astronaut[0]), 640, 0.5, True)
    assert len(found) == 1 and found[0].score > 0.85  # a smaller look sees this face better than 640 does


def test_a_confident_first_view_ends_the_search(analyzer, astronaut, monkeypatch):
    sizes, real = [], type(analyzer).detect
    monkeypatch.setattr(type(analyzer), "detect", lambda self, p, s, m: sizes.append(s) or real(self, p, s, m))
    search(analyzer, to_bgr(astronaut[0]), 640, 0.5, True)
    assert sizes == [640]


@pytest.mark.parametrize("view", search_module.further_views(640, 512)[1], ids=str)
def test_a_border_alone_finds_a_close_up_where_it_is(analyzer, astronaut, reference, view):
    """Detectors with a fixed input size have nothing but the border."""
    close = resized(astronaut[:, CLOSE_UP[0], CLOSE_UP[1]], (450, 375))
    found = search_module._detect_in_view(analyzer, to_bgr(close[0]), view, 0.5)
    assert len(found) == 1
    points, box = torch.from_numpy(found[0].keypoints) / 5, torch.from_numpy(found[0].box) / 5
    assert (points + torch.tensor([190, 75]) - reference.faces[0].keypoints).norm(dim=-1).max() < 8
    assert (box + torch.tensor([190, 75, 190, 75]) - reference.faces[0].box).abs().max() < 25


@pytest.mark.parametrize(
    ("choice", "index", "columns"),
    [
        ("largest", 0, [1]),
        ("left to right", 0, [0]),
        ("left to right", 2, [2]),
        ("index", 0, [1]),
        ("index", 1, [0]),
        ("index", 2, [2]),
        ("all", 0, [0, 1, 2]),
    ],
)
def test_choice(analyzer, three, choice, index, columns):
    found = detect_faces(analyzer, three, Options(choice=choice, index=index))
    middles = [float(face.box[0] + face.box[2]) / 2 for face in found.faces]
    assert [0 if x < 195 else 1 if x < 460 else 2 for x in middles] == columns
    assert len(found.pictures[0].found) == 3
    assert [bool(found.mask[0, :, x].max() == 1) for x in (95, 328, 555)] == [c in columns for c in (0, 1, 2)]


def test_best_score(analyzer, three):
    found = detect_faces(analyzer, three, Options(choice="best score"))
    assert found.faces[0].score == max(face.score for face in found.pictures[0].found)


def test_an_index_beyond_the_faces_is_reported(analyzer, three):
    found = detect_faces(analyzer, three, Options(choice="index", index=3))
    assert len(found.faces) == 0 and "only 3 found" in found.report


@pytest.fixture(scope="module")
def mixed(astronaut):
    noise = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    spoilt = astronaut.clone()
    spoilt[0, 3, 3, 0] = float("nan")
    return torch.cat([astronaut, noise, spoilt, astronaut.flip(2)])


def test_one_bad_picture_does_not_kill_the_batch(analyzer, mixed):
    done = []
    found = detect_faces(analyzer, mixed, Options(), lambda *step: done.append(step))
    assert [face.image_index for face in found.faces] == [0, 3]
    assert "Picture 1: skipped, no face" in found.report and "Picture 2: skipped, the picture holds NaN" in found.report
    assert [bool(mask.any()) for mask in found.mask] == [True, False, False, True]
    assert found.mask.shape == (4, 512, 512) and found.crops.shape == (2, 224, 224, 3)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_error_names_the_picture(analyzer, mixed):
    with pytest.raises(NoFace, match="Picture 1: no face with a score of at least 0.5"):
        detect_faces(analyzer, mixed, Options(no_face="error"))


@pytest.mark.parametrize("shape", [(1, 64, 64, 3), (2, 0, 0, 3), (0, 64, 64, 3), (1, 1, 1, 3), (1, 2, 300, 3)])
def test_no_face_at_all_gives_empty_faces_and_a_valid_image(analyzer, shape):
    found = detect_faces(analyzer, torch.zeros(shape), Options(crop_size=64))
    assert len(found.faces) == 0 and found.crops.shape == (1, 64, 64, 3) and not found.crops.any()
    assert found.mask.ndim == 3 and not found.mask.any() and "0 faces" in found.report


def test_grey_rgba_half_and_overbright_pictures(analyzer, astronaut, reference):
    rgba = torch.cat([astronaut, torch.rand(1, 512, 512, 1)], -1)
    assert detect_faces(analyzer, rgba).faces.raw.equal(reference.faces.raw)
    assert cosine(detect_faces(analyzer, astronaut.mean(-1, keepdim=True)).faces, reference.faces) > 0.8
    assert cosine(detect_faces(analyzer, astronaut.bfloat16()).faces, reference.faces) > 0.98
    assert cosine(detect_faces(analyzer, astronaut * 1.2 - 0.1).faces, reference.faces) > 0.8


@pytest.mark.parametrize(
    "wrong",
    [{"choice": "biggest"}, {"no_face": "ignore"}, {"crop_size": 0}, {"index": -1}, {"detection_size": 1}],
)
def test_options_are_checked(wrong):
    with pytest.raises(FaceCDMError, match=next(iter(wrong))):
        Options(**wrong)


def test_not_a_batch_of_pictures(analyzer):
    with pytest.raises(FaceCDMError, match=r"not \[64, 64, 3\]"):
        detect_faces(analyzer, torch.zeros(64, 64, 3))


def test_min_score(analyzer, astronaut):
    assert len(detect_faces(analyzer, astronaut, Options(min_score=0.95)).faces) == 0


def test_overlap_and_dedupe():
    def found(x, score):
        return FaceDetection(np.float32([x, 0, x + 10, 10]), score, np.zeros((5, 2), np.float32))

    assert overlap(found(0, 1).box, found(5, 1).box) == pytest.approx(1 / 3)
    assert overlap(found(0, 1).box, found(20, 1).box) == 0
    assert [face.score for face in dedupe([found(0, 0.6), found(1, 0.9), found(20, 0.7)])] == [0.9, 0.7]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_on_its_side_is_found_with_its_key_points(analyzer, astronaut, faceworld, turns):
    """Upright, the detector finds none of these, or finds them with wrong key points and so with a wrong identity."""
    for photo in (astronaut, *(view[None] for views in faceworld.values() for view in views)):
        upright = detect_faces(analyzer, photo).faces
        turned = detect_faces(analyzer, torch.rot90(photo, turns, (1, 2))).faces
        assert len(turned) == 1 and cosine(turned, upright) > 0.9
        face, size = turned[0], photo.shape[1:3]
        for name in ("keypoints", "landmarks"):
            points = turned_points(getattr(upright[0], name).numpy(), turns, *size)
            off = np.linalg.norm(getattr(face, name).numpy() - points, axis=1)
            assert off.mean() < 0.08 * upright[0].width, name


def test_an_upright_face_is_not_replaced_by_a_turned_one(analyzer, faceworld, monkeypatch):
    pictures = torch.cat(list(faceworld.values()))
    monkeypatch.setattr(search_module, "UPRIGHT", 2.0)  # every picture is searched in all views and turns
    found = detect_faces(analyzer, pictures).faces
    monkeypatch.setattr(search_module, "_detect_turned", lambda *args: [])
    assert len(found) == len(pictures) and found.raw.equal(detect_faces(analyzer, pictures).faces.raw)


def test_all_upright_views_come_before_a_turned_one():
    """A face that scores low at the first size is not taken for one that stands on its head."""
    points = np.float32([[30, 40], [60, 40], [45, 55], [33, 70], [57, 70]])
    scores = {(True, 128): 0.72, (True, 64): 0.84, (False, 128): 0.78}  # by (upright, size)

    class Detector:
        def detect(self, bgr, size, min_score):
            score = scores.get((bool(bgr[0, 0, 0]), size))
            return [FaceDetection(np.float32([10, 10, 80, 90]), score, points)] if score else []

    picture = np.zeros((100, 100, 3), np.uint8)
    picture[0, 0] = 255  # tells this picture from its turned ones
    (face,) = search(Detector(), picture, 128, 0.5, thorough=True)
    assert face.score == 0.84 and (face.keypoints == points).all()


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))
def test_points_turn_with_the_picture_and_back(turns, height, width):
    picture = np.arange(height * width).reshape(height, width, 1)
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    points = np.stack([x, y], 1).astype(np.float32)
    moved = turned_points(points, turns, height, width)
    turned = turned_picture(picture, turns)
    assert (turned[moved[:, 1].astype(int), moved[:, 0].astype(int), 0] == picture[y, x, 0]).all()
    assert (turned_points(moved, -turns, *turned.shape[:2]) == points).all()


def test_a_huge_picture_is_searched_within_bounded_memory(analyzer, astronaut, reference, monkeypatch):
    """With its border a photo of 24 megapixels would have 288."""
    monkeypatch.setattr(search_module, "LARGEST", 500_000)
    close = resized(astronaut[:, CLOSE_UP[0], CLOSE_UP[1]], (900, 750))
    found = detect_faces(analyzer, close)
    assert len(found.faces) == 1 and cosine(found.faces, reference.faces) > 0.8
    assert (found.faces[0].keypoints / 10 + torch.tensor([190.0, 75.0]) - reference.faces[0].keypoints).abs().max() < 8


@pytest.mark.parametrize("shape", [(1, 8, 16384, 3), (1, 16384, 8, 1), (1, 200, 3, 4), (1, 3, 200, 2), (1, 1, 5000, 3)])
def test_odd_shapes_are_skipped_without_an_error(analyzer, shape):
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = detect_faces(analyzer, picture, Options(crop_size=32))
    assert len(found.faces) == 0 and found.mask.shape == shape[:3] and "skipped" in found.report
    assert draw_pictures(picture, found.pictures).shape == (*shape[:3], 3)
