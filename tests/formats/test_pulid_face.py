"""The picture that PuLID encodes: in FFHQ's frame, grey, on white."""

import cv2
import numpy as np
import pytest
import torch

from facecdm.errors import BadFile, FaceCDMError
from facecdm.faces.align import aligned_crop
from facecdm.faces.value import Face, Faces
from facecdm.formats.bisenet import BiSeNet, load_parser
from facecdm.formats.pulid_face import FFHQ, oval, parsed, prepared, upright_faces

EYES_NOSE_MOUTH = torch.tensor([[205.0, 106], [247, 110], [225, 135], [203, 152], [241, 156]])  # of the astronaut


@pytest.fixture(scope="module")
def faces(astronaut):
    picture = (astronaut[0].numpy() * 255).round().astype(np.uint8)
    crop = torch.from_numpy(aligned_crop(picture, EYES_NOSE_MOUTH.numpy(), 112)).float() / 255
    return Faces(
        (Face(torch.ones(512), EYES_NOSE_MOUTH, torch.tensor([180.0, 60, 270, 190]), 0.9, (512, 512), 0, crop),),
        "antelopev2/glintr100.onnx",
    )


@pytest.fixture(scope="module")
def upright(faces, astronaut):
    return upright_faces(faces, astronaut)


def test_the_frame_equals_facexlibs(upright, astronaut):
    """As FaceRestoreHelper.align_warp_face does it."""
    matrix = cv2.estimateAffinePartial2D(EYES_NOSE_MOUTH.numpy(), FFHQ, method=cv2.LMEDS)[0]
    picture = (astronaut[0].numpy() * 255).round().astype(np.uint8)
    theirs = cv2.warpAffine(picture, matrix, (512, 512), borderValue=(132, 133, 135))
    assert upright.shape == (1, 3, 512, 512)
    difference = (upright[0].movedim(0, -1) - torch.from_numpy(theirs) / 255).abs()
    assert difference.mean() < 0.04, "two ways to fit five points agree within a few pixels"
    unaligned = torch.from_numpy(cv2.resize(picture[:250, 80:330], (512, 512))) / 255
    assert (upright[0].movedim(0, -1) - unaligned).abs().mean() > 0.1


def test_grey_on_white(upright):
    mean, std = (
        torch.tensor(v).view(3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    output = prepared(upright, oval) * std + mean
    assert output.shape == (1, 3, 336, 336)
    torch.testing.assert_close(output[:, :1].expand(-1, 3, -1, -1), output)
    assert output[0, :, 0, 0].min() > 0.99 and output[0, :, 335, 335].min() > 0.99
    eye_x, eye_y = (FFHQ[0] * 336 / 512).round().astype(int)
    grey = (upright[0] * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    assert abs(output[0, 0, eye_y, eye_x] - grey[round(FFHQ[0][1]), round(FFHQ[0][0])]) < 0.1


def test_white_stays_white():
    white = torch.ones(1, 512, 512, 3)
    face = Face(torch.ones(512), EYES_NOSE_MOUTH, torch.tensor([180.0, 60, 270, 190]), 0.9, (512, 512), 0, white[0])
    upright = upright_faces(Faces((face,), "antelopev2/glintr100.onnx"), white)
    assert (upright[0, :, 200:400, 200:400] == 1).all()


def test_beyond_the_pictures_edge_is_facexlibs_grey():
    black = torch.zeros(1, 64, 64, 3)
    points = torch.from_numpy(FFHQ / 8).float()  # the frame's middle is the picture's corner
    face = Face(torch.ones(512), points - 32, torch.tensor([0.0, 0, 32, 32]), 0.9, (64, 64), 0, black[0])
    upright = upright_faces(Faces((face,), "antelopev2/glintr100.onnx"), black)
    assert (upright[0, :, 0, 0] * 255).round().tolist() == [132, 133, 135] and not upright[0, :, 384:, 384:].any()


def test_faces_of_another_picture(faces, astronaut):
    with pytest.raises(FaceCDMError, match="1 picture.s. of 256 × 512, and not all of the 1 face.s. were found"):
        upright_faces(faces, astronaut[:, :, :256])
    with pytest.raises(FaceCDMError, match="connect the same picture"):  # another one of the same size
        upright_faces(faces, astronaut.flip(2))


@pytest.fixture(scope="module")
def published():
    """The tensors of facexlib's file: random, at true size, with the two heads that are used only in training."""
    torch.manual_seed(0)
    state = BiSeNet().state_dict()
    for key, value in state.items():
        if "bn" in key or "downsample.1" in key:
            value.copy_(torch.rand_like(value.float()) * 0.5 + 0.5 if "mean" not in key else value)
    state["conv_out.conv_out.weight"].normal_()
    return state | {"conv_out16.conv_out.weight": torch.zeros(19, 64, 1, 1)}


@pytest.fixture(scope="module")
def parser_file(published, tmp_path_factory):
    path = tmp_path_factory.mktemp("facexlib") / "parsing_bisenet.pth"
    torch.save(published, path)
    return path


def test_background_by_the_parsers_classes(parser_file, upright):
    """Background, ears, neck, clothes and hat become white; skin, eyes, mouth and hair stay."""
    parser = load_parser(parser_file)
    background = parsed(parser)(upright)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    classes = parser(((upright.movedim(1, -1) - mean) / std).movedim(-1, 1)).argmax(1)[:, None]
    expected = sum(classes == c for c in [0, 16, 18, 7, 8, 9, 14, 15]).bool()
    assert background.equal(expected) and expected.any() and not expected.all()


def test_a_parser_file_that_lacks_a_tensor(published, tmp_path):
    """Its convolutions have no biases, so a file without them is whole."""
    assert not any(key.endswith("conv.bias") for key in published)
    torch.save({key: value for key, value in published.items() if key != "ffm.conv1.weight"}, tmp_path / "a.pth")
    with pytest.raises(BadFile, match="does not hold the weights of facexlib's BiSeNet.*ffm.conv1.weight"):
        load_parser(tmp_path / "a.pth")


def test_the_parser_equals_facexlibs(parser_file, published, upright):
    theirs = pytest.importorskip("facexlib.parsing.bisenet").BiSeNet(num_class=19).eval()
    assert not theirs.load_state_dict(published, strict=False).unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(load_parser(parser_file)(upright), theirs(upright)[0], rtol=1e-4, atol=1e-4)


def test_a_damaged_parser_file(tmp_path):
    (tmp_path / "parsing_bisenet.pth").write_bytes(b"nothing")
    with pytest.raises(BadFile, match="parsing_bisenet.pth cannot be read"):
        load_parser(tmp_path / "parsing_bisenet.pth")
