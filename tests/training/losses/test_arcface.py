"""The recogniser with gradients equals the user's own to 1e-4, on the crop that InsightFace makes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from iresnet import IRESNET50, write_iresnet, write_oddities
from PIL import Image

from facecdm.errors import BadFile, MissingModel
from facecdm.faces.align import TEMPLATE, similarity
from facecdm.faces.analyzer import open_pack
from facecdm.training.losses import ArcFace, align
from facecdm.training.losses.arcface import from_crop
from facecdm.training.losses.convert import OPERATIONS


@pytest.fixture(scope="module")
def folder(face_models) -> Path:
    return face_models / "models" / "insightface"


@pytest.fixture(scope="module")
def mbf(folder) -> Path:
    return folder / "models" / "buffalo_s" / "w600k_mbf.onnx"


@pytest.fixture(scope="module")
def recogniser(mbf) -> ArcFace:
    return ArcFace(mbf)


def pictures(faceworld_val: Path) -> list[np.ndarray]:
    """RGB uint8: a photograph, the same with a face far larger than the crop, and FaceWorld."""
    from skimage import data

    astronaut = Image.fromarray(data.astronaut())
    views = [Image.open(path).convert("RGB") for path in sorted(faceworld_val.glob("*/*.webp"))]
    return [np.asarray(picture) for picture in (astronaut, astronaut.resize((1500, 1500), Image.BICUBIC), *views)]


def as_pixels(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).float().permute(2, 0, 1)[None] / 127.5 - 1


def onnx_runtime(path: Path, crops: torch.Tensor) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: crop[None].numpy()})[0] for crop in crops])


def test_as_onnx_runtime_on_noise(mbf, recogniser):
    crops = torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert np.abs(recogniser(crops).numpy() - onnx_runtime(mbf, crops)).max() < 1e-4


def test_large_networks_as_onnx_runtime(tmp_path):
    """The layout of buffalo_l's w600k_r50 at true size; antelopev2's glintr100 is the same with more blocks."""
    path = write_iresnet(tmp_path / "r50.onnx", IRESNET50)
    assert path.stat().st_size > 170e6
    recogniser = ArcFace(path)
    crop = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = onnx_runtime(path, crop)
    assert 0.1 < np.abs(wanted).mean() < 10
    assert np.abs(recogniser(crop).numpy() - wanted).max() < 1e-4


def test_every_operation_as_onnx_runtime(tmp_path):
    """A network that contains the normalisation gets values in 0…255."""
    path = write_oddities(tmp_path / "odd.onnx")
    recogniser = ArcFace(path)
    crops = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert recogniser.wants_bytes
    assert np.abs(recogniser(crops).numpy() - onnx_runtime(path, (crops + 1) * 127.5)).max() < 1e-4
    large = {"BatchNormalization", "PRelu", "Add", "Flatten"}
    assert set(recogniser.network.operations) | large == OPERATIONS.keys() | {"Constant"}


def test_as_insightface_on_real_pictures(folder, mbf, recogniser, faceworld_val):
    """Alignment and network in torch, against InsightFace's own path."""
    from insightface.utils import face_align

    analyzer = open_pack([folder], "buffalo_s", "CPU")
    for picture in pictures(faceworld_val):
        bgr = np.ascontiguousarray(picture[..., ::-1])
        face = analyzer.detect(bgr, 640, 0.5)[0]
        wanted = torch.from_numpy(analyzer.embed(bgr, face)[0])
        points = torch.from_numpy(face.keypoints) / torch.tensor(picture.shape[1::-1])
        assert torch.cosine_similarity(recogniser.embed(as_pixels(picture), points[None])[0], wanted, dim=0) > 0.998
        # InsightFace's own crop through both networks.
        crop = as_pixels(face_align.norm_crop(bgr, face.keypoints, 112)[..., ::-1])
        assert np.abs(recogniser(crop).numpy() - onnx_runtime(mbf, crop)).max() < 1e-4
        if max(picture.shape) <= 512:  # larger faces are averaged here, and sampled sparsely there
            assert (align(as_pixels(picture), points[None]) - crop).abs().max() < 0.006  # one of 256 levels: .0078


def test_matrix_is_umeyama():
    points = torch.rand(6, 5, 2, generator=torch.Generator().manual_seed(1)) * 300
    for own, matrix in zip(points, from_crop(points)):
        wanted = np.linalg.inv(np.vstack([similarity(own.numpy(), TEMPLATE), [0, 0, 1]]))[:2]
        assert np.allclose(matrix, wanted, atol=2e-2, rtol=1e-3)


def test_alignment_reaches_every_pixel_of_a_large_face():
    pixels = torch.zeros(1, 3, 900, 900, requires_grad=True)
    points = torch.from_numpy(TEMPLATE / 112).float()[None]
    align(pixels, points).sum().backward()
    assert (pixels.grad > 0).float().mean() > 0.98
    assert pixels.grad.amax() < 3 * pixels.grad.mean()


def test_rows_of_all_sizes_keep_their_order():
    """A batch of small and large faces gives the same crops as each alone; degenerate key points give no NaN."""
    pixels = torch.rand(3, 3, 300, 300, generator=torch.Generator().manual_seed(0)) * 2 - 1
    points = torch.from_numpy(TEMPLATE / 112).float()
    points = torch.stack([points, points / 4 + 0.3, torch.full_like(points, 0.5)])
    crops = align(pixels, points)
    for i in range(2):
        assert torch.allclose(crops[i], align(pixels[i : i + 1], points[i : i + 1])[0], atol=1e-3)
    assert torch.isfinite(crops).all()


def test_frozen_with_gradients_for_the_picture(recogniser):
    assert not list(recogniser.parameters()) and not any(value.requires_grad for value in recogniser.buffers())
    crop = torch.zeros(1, 3, 112, 112, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        embedding = recogniser(crop)
    assert embedding.dtype == torch.float32
    embedding.square().sum().backward()
    assert torch.isfinite(crop.grad).all() and crop.grad.abs().sum() > 0


def test_made_in_inference_mode_it_still_differentiates(mbf):
    with torch.inference_mode():
        recogniser = ArcFace(mbf)
    crop = torch.zeros(1, 3, 112, 112, requires_grad=True)
    recogniser(crop).sum().backward()
    assert crop.grad.abs().sum() > 0


def test_an_unreadable_network_is_an_error(folder, tmp_path):
    with pytest.raises(MissingModel, match="nowhere.onnx"):
        ArcFace(tmp_path / "nowhere.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(BadFile, match="broken.onnx"):
        ArcFace(tmp_path / "broken.onnx")
    with pytest.raises(BadFile, match="det_500m.onnx"):
        ArcFace(folder / "models" / "buffalo_s" / "det_500m.onnx")
