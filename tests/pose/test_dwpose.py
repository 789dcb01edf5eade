"""DWPose's real code (rtmlib, ONNX Runtime) over models of the true inputs and outputs.

No real weights can be had here. These models are built so that the answer is known: a YOLOX (640 × 640, 8,400 boxes,
80 classes) that finds one person and one car, and an RTMPose (384 × 288, 133 key points as SimCC) of known points.
"""

import numpy as np
import pytest
import torch

from facecdm.errors import BadFile, MissingModel, MissingPackage
from facecdm.pose import dwpose
from facecdm.pose.detectors import DWPOSE, open_detector
from facecdm.pose.extract import extract

HEIGHT, WIDTH = 480, 640  # of the picture; YOLOX sees it at scale 1, padded below
PERSON = np.array([100.0, 60.0, 340.0, 420.0])
CAR = np.array([400.0, 100.0, 600.0, 300.0])
UNCERTAIN = 40  # of the 133: a point of the face that is not seen


def boxes() -> np.ndarray:
    """[1, 8400, 85] as YOLOX's head gives it: centre in cells from the anchor's own, log sizes in cells."""
    out = np.zeros((1, 8400, 85), np.float32)
    out[..., 2:4] = -4
    cells = 640 // 8
    for box, category in ((PERSON, 0), (CAR, 2)):
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        x, y = (centre // 8).astype(int)
        out[0, y * cells + x, :4] = [*(centre / 8 - (x, y)), *np.log(size / 8)]
        out[0, y * cells + x, 4] = out[0, y * cells + x, 5 + category] = 0.95
    return out


def positions() -> np.ndarray:
    """[133, 2]: where the points lie in the pose model's 288 × 384, in half pixels as SimCC counts them."""
    random = np.random.default_rng(0)
    return np.stack([random.integers(100, 476, 133), random.integers(100, 668, 133)], 1)


def simcc() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    for point, (column, row) in enumerate(positions()):
        x[0, point, column] = y[0, point, row] = 0.1 if point == UNCERTAIN else 0.9
    return x, y


def save(path, shape, outputs: dict[str, np.ndarray]):
    """An ONNX model that gives constants, plus nothing of its input, which it does read."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx import save as write

    nodes = [
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value, f"{name}_is"))
        nodes.append(helper.make_node("Add", [f"{name}_is", "nothing"], [name]))
    graph = helper.make_graph(
        nodes, "known", [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(value.shape)) for name, value in outputs.items()],
        constants)  # fmt: skip
    write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture(scope="module")
def rtmlib():
    try:
        return dwpose.import_rtmlib()
    except MissingPackage as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dwpose")
    save(folder / "yolox_l.onnx", [1, 3, 640, 640], {"output": boxes()})
    x, y = simcc()
    save(folder / "dw-ll_ucoco_384.onnx", [1, 3, 384, 288], {"simcc_x": x, "simcc_y": y})
    return folder


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


def in_picture() -> np.ndarray:
    """[133, 2]: the points in pixels: RTMPose's crop is the box made 3:4, and a quarter larger."""
    centre, size = (PERSON[:2] + PERSON[2:]) / 2, (PERSON[2:] - PERSON[:2]) * 1.25
    size = np.array([max(size[0], size[1] * 0.75), max(size[1], size[0] / 0.75)])
    return positions() / 2 / (288, 384) * size + centre - size / 2


def test_the_known_person_is_found_where_it_is(rtmlib, folder, picture):
    detector = dwpose.DWPoseDetector.open([folder], "CPU")
    people = extract(detector, picture).poses[0].people
    assert len(people) == 1  # the car is no person
    person, known = people[0], in_picture()
    eyes, shoulders, hips = (2, 1), (6, 5), (12, 11)  # COCO counts the left first, OpenPose the right
    for places_, source in (((14, 15), eyes), ((2, 5), shoulders), ((8, 11), hips)):
        np.testing.assert_allclose(person.body[list(places_), :2], known[list(source)], atol=0.1)
    np.testing.assert_allclose(person.body[1, :2], known[[5, 6]].mean(0), atol=0.1)  # the neck is between shoulders
    np.testing.assert_allclose(person.left_hand[:, :2], known[91:112], atol=0.1)
    np.testing.assert_allclose(person.right_hand[:, :2], known[112:133], atol=0.1)
    face = known[23:91].copy()
    face[UNCERTAIN - 23] = 0
    np.testing.assert_allclose(person.face[:68, :2], face, atol=0.1)
    assert person.face[UNCERTAIN - 23, 2] == 0 and (person.face[68:, :2] == person.body[[14, 15], :2]).all()


def test_a_picture_without_people(rtmlib, folder, picture):
    """rtmlib alone would take the whole picture for a person."""
    sure = dwpose.DWPoseDetector.open([folder], "CPU", min_score=0.99)
    assert extract(sure, picture).poses[0].people == ()


def test_a_model_that_suppresses_doubles_by_itself(rtmlib, folder, picture, tmp_path):
    found = np.array([[[*PERSON, 0.9], [*CAR, 0.1]]], np.float32)
    save(tmp_path / "yolox_m.onnx", [1, 3, 640, 640], {"output": found})
    (tmp_path / "dw.onnx").write_bytes((folder / "dw-ll_ucoco_384.onnx").read_bytes())
    person = extract(dwpose.DWPoseDetector.open([tmp_path], "CPU"), picture).poses[0].people
    assert len(person) == 1
    np.testing.assert_allclose(person[0].left_hand[:, :2], in_picture()[91:112], atol=0.1)


def test_the_detector_stays_open_until_a_file_changes(rtmlib, folder, detector_is_closed):
    first = open_detector(DWPOSE, [folder])
    assert open_detector(DWPOSE, [folder]) is first
    (folder / "yolox_l.onnx").touch()
    assert open_detector(DWPOSE, [folder]) is not first


def test_missing_files_and_packages_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(MissingModel, match=r"yolox.*which has nothing.*face key points"):
        dwpose.find_files([tmp_path])
    (tmp_path / "yolox_l.onnx").write_bytes(b"")
    with pytest.raises(MissingModel, match="which has yolox_l.onnx"):
        dwpose.find_files([tmp_path, tmp_path / "nowhere"])
    monkeypatch.setitem(__import__("sys").modules, "rtmlib", None)
    with pytest.raises(MissingPackage, match="pip install --no-deps rtmlib"):
        dwpose.DWPoseDetector.open([folder])


def test_a_file_that_was_cut_off_is_named(rtmlib, folder, tmp_path):
    for name in ("yolox_l.onnx", "dw-ll_ucoco_384.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    whole = (folder / "yolox_l.onnx").read_bytes()
    (tmp_path / "yolox_l.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadFile, match=r"yolox_l\.onnx"):
        dwpose.DWPoseDetector.open([tmp_path], "CPU")


def test_the_node_finds_the_same_without_network(rtmlib, in_comfy, extract_node, folder, picture, connections):
    """With its weights in models/dwpose; and without them, where rtmlib by itself would fetch some."""
    control, frames, *_, report = extract_node(DWPOSE, "dwpose", folder, picture)
    hand = np.reshape(frames[0]["people"][0]["hand_left_keypoints_2d"], (21, 3))
    np.testing.assert_allclose(hand[:, :2], in_picture()[91:112], atol=0.1)
    assert control.shape == (1, HEIGHT, WIDTH, 3) and control.any() and "1 person" in report
    with pytest.raises(in_comfy.module("facecdm.errors").MissingModel, match="yolox"):
        extract_node(DWPOSE, "dwpose", None, picture)
    assert connections == []


def test_a_download_would_be_noticed(rtmlib, connections):
    """So that the silence above says something: rtmlib alone, given an address in place of a file."""
    with pytest.raises(Exception):  # noqa: B017 - whatever it makes of a closed door
        rtmlib[0]("https://example.invalid/yolox.onnx", backend="onnxruntime")
    assert connections
