"""Face crops that published adapters encode are RGB, from pictures that are RGB, RGBA or grey."""

import numpy as np
import pytest
import torch

from facecdm.faces.align import aligned_crop
from facecdm.faces.value import Face, Faces
from facecdm.formats.crops import aligned, close_ups, squares
from facecdm.formats.pulid_face import upright_faces

KEYPOINTS = torch.tensor([[205.0, 106], [247, 110], [225, 135], [203, 152], [241, 156]])  # of the astronaut
CROPS = {
    "aligned": (lambda faces, image: aligned(faces, image, 112), (1, 112, 112, 3)),
    "squares": (lambda faces, image: squares(faces, image, "WithAnyone"), (1, 512, 512, 3)),
    "close_ups": (close_ups, (1, 448, 448, 3)),
    "upright_faces": (upright_faces, (1, 3, 512, 512)),
}


def face_in(image: torch.Tensor) -> Faces:
    """The astronaut's face, found in an RGB picture [1, 512, 512, 3]."""
    picture = (image[0].numpy() * 255).round().astype(np.uint8)
    crop = torch.from_numpy(aligned_crop(picture, KEYPOINTS.numpy(), 112)).float() / 255
    box = torch.tensor([180.0, 60, 270, 190])
    return Faces((Face(torch.ones(512), KEYPOINTS, box, 0.9, (512, 512), 0, crop),), "antelopev2/glintr100.onnx")


@pytest.mark.parametrize("name", CROPS)
def test_a_grey_picture_counts_as_rgb(name, astronaut):
    cut, shape = CROPS[name]
    grey = astronaut.mean(-1, keepdim=True)
    colour = grey.repeat(1, 1, 1, 3)
    shown = cut(face_in(colour), grey)
    assert shown.shape == shape and shown.equal(cut(face_in(colour), colour))


@pytest.mark.parametrize("name", CROPS)
def test_the_alpha_of_a_picture_is_left_out(name, astronaut):
    cut, shape = CROPS[name]
    faces, alpha = face_in(astronaut), torch.rand(1, 512, 512, 1)
    shown = cut(faces, torch.cat([astronaut, alpha], -1))
    assert shown.shape == shape and shown.equal(cut(faces, astronaut))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_without_the_faces_are_returned_as_rgb(channels, astronaut):
    other = torch.rand(2, 64, 48, channels)
    assert close_ups(face_in(astronaut), other).equal(other[..., :3].expand(-1, -1, -1, 3))
