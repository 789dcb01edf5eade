import torch

from facecdm.faces.detect import Options, detect_faces
from facecdm.faces.draw import CHOSEN, draw_pictures


def test_preview_marks_the_face_and_leaves_the_rest(analyzer, astronaut):
    result = detect_faces(analyzer, astronaut)
    preview = draw_pictures(astronaut, result.pictures)
    assert preview.shape == astronaut.shape and preview.dtype == torch.float32
    changed = (preview - astronaut).abs().amax(-1)[0] > 0.01
    x0, y0, x1, y1 = (int(value) for value in result.faces[0].box)
    assert changed[y0 - 35 : y1 + 4, x0 - 4 : x1 + 4].sum() == changed.sum() > 500
    green = (preview[0] - torch.tensor(CHOSEN) / 255).abs().amax(-1) < 0.02
    assert green[y0 + 40 : y1 - 40, x0 - 1 : x0 + 3].any(-1).float().mean() > 0.9  # the left side of the box
    for x, y in result.faces[0].keypoints.round().int().tolist():
        assert green[y, x]


def test_every_kind_of_picture_can_be_drawn(analyzer, astronaut):
    grey = astronaut[..., :1].repeat(3, 1, 1, 1)
    grey[1] = 0
    grey[2, 0, 0] = float("nan")
    result = detect_faces(analyzer, grey, Options())
    preview = draw_pictures(grey, result.pictures)
    assert preview.shape == (3, 512, 512, 3) and torch.isfinite(preview).all()
    assert (preview[1] > 0.1).any()  # says why nothing was taken
    empty = torch.zeros(1, 0, 0, 3)
    assert draw_pictures(empty, detect_faces(analyzer, empty).pictures).numel() > 0


def test_a_tiny_picture_can_be_drawn(analyzer):
    tiny = torch.zeros(1, 5, 7, 3)
    assert draw_pictures(tiny, detect_faces(analyzer, tiny).pictures).shape == tiny.shape
