"""A face is matched to its own picture, and to no other of the same size."""

import pytest
import torch

from facecdm.faces import Faces
from facecdm.faces.detect import Options, detect_faces
from facecdm.faces.source_picture import source_pictures


@pytest.fixture(scope="module")
def photos(faceworld):
    """[6, 256, 256, 3]: three views each of two people."""
    return torch.cat(list(faceworld.values()))


@pytest.mark.parametrize("margin", [0.0, 0.18, 0.5, 1.25, 2.0])
def test_each_face_has_its_own_picture_at_any_index(analyzer, photos, margin):
    single = [detect_faces(analyzer, photo[None], Options(crop_margin=margin)).faces for photo in photos]
    assert all(faces[0].image_index == 0 for faces in single)
    together = Faces(tuple(faces[0] for faces in single), single[0].recogniser)  # as Combine Faces leaves them
    assert source_pictures(together, photos) == [0, 1, 2, 3, 4, 5]
    assert source_pictures(together, photos.flip(0)) == [5, 4, 3, 2, 1, 0]


def test_another_photo_of_the_same_size_is_not_taken_for_it(analyzer, photos):
    found = [detect_faces(analyzer, photo[None], Options()).faces for photo in photos]
    for own, faces in enumerate(found):
        for other in range(len(photos)):
            assert (source_pictures(faces, photos[other : other + 1]) is not None) == (other == own)
    assert source_pictures(found[0], None) is None
    assert source_pictures(found[0], photos[:, :128]) is None
