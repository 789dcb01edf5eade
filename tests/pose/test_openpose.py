"""OpenPose's real code (controlnet_aux) over nets of the true layout and size, 52, 37 and 39 million weights.

No real weights can be had here, and random ones find nothing that could be checked. So a body net is wired by hand to
see coloured dots: each colour is one key point, and the limbs' fields point from the red dot to the others. The nets of
hands and faces are all zero: they see nothing. Body detection is thus tried end to end, hands and face as far as that.
"""

import numpy as np
import pytest
import torch

from facecdm.errors import BadFile, MissingModel, MissingPackage
from facecdm.pose.detectors import OPENPOSE, open_detector
from facecdm.pose.extract import extract
from facecdm.pose.openpose import FILES, OpenPoseDetector

SIDE = 512
# key point → (its colour as signs of R, G, B; where its dot is)
DOTS = {1: ((1, -1, -1), (250, 260)), 2: ((-1, 1, -1), (150, 270)), 5: ((-1, -1, 1), (350, 250)),
        0: ((1, 1, -1), (260, 120))}  # fmt: skip
LIMBS = {2: (12, 13), 5: (20, 21), 0: (28, 29)}  # from the neck to …: channels of the field, as body.py has them
BEFORE = 38 + 19  # channels of a stage's input that come from the stage before


def zeros(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight zero."""
    return {name: torch.zeros(value.shape) for name, value in net.state_dict().items()}


def wired(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights of the body net that answer `DOTS`: channel n of every layer carries the n-th colour."""
    state = zeros(net)

    def path(name: str, offset: int = 0) -> None:
        weight = torch.zeros(state[f"{name}.weight"].shape)
        for n in range(len(DOTS)):
            weight[n, n + offset, weight.shape[2] // 2, weight.shape[3] // 2] = 1
        state[f"{name}.weight"] = weight

    for name in (key.removesuffix(".weight") for key in list(state) if key.endswith(".weight")):
        layer = name.split(".")[-1]
        if layer.startswith(("conv1_2", "conv2", "conv3", "conv4")):
            path(name)
        elif layer == "Mconv1_stage6_L2":
            path(name, BEFORE)
        elif "stage6_L2" in layer:
            path(name)
    first = torch.zeros(64, 3, 3, 3)
    for n, (colour, _) in enumerate(DOTS.values()):
        first[n, :, 1, 1] = torch.tensor(colour[::-1])  # the net sees BGR, −0.5 … 0.5
    bias = torch.zeros(64)
    bias[: len(DOTS)] = -1  # only the very colour is above 0
    state |= {"model0.conv1_1.weight": first, "model0.conv1_1.bias": bias}
    last = torch.zeros(19, 128, 1, 1)
    for n, part in enumerate(DOTS):
        last[part, n] = 1
    state["model6_2.Mconv7_stage6_L2.weight"] = last
    field = torch.zeros(38)
    for part, channels in LIMBS.items():
        way = np.subtract(DOTS[part][1], DOTS[1][1])
        field[list(channels)] = torch.tensor(way / np.linalg.norm(way)).float()
    return state | {"model6_1.Mconv7_stage6_L1.bias": field}


@pytest.fixture(scope="module")
def folder(openpose_package, tmp_path_factory):
    from controlnet_aux.open_pose.face import FaceNet
    from controlnet_aux.open_pose.model import bodypose_model, handpose_model

    folder = tmp_path_factory.mktemp("openpose")
    with torch.device("meta"):  # shapes alone
        body, hand, face = bodypose_model(), handpose_model(), FaceNet()

    def published(state):
        """The files lack the name of the block."""
        return {name.split(".", 1)[1]: value for name, value in state.items()}

    torch.save(published(wired(body)), folder / FILES["body"])
    torch.save(published(zeros(hand)), folder / FILES["hands"])
    torch.save(zeros(face), folder / FILES["face"])
    return folder


@pytest.fixture(scope="module")
def dots() -> torch.Tensor:
    y, x = np.mgrid[:SIDE, :SIDE]
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    for colour, (column, row) in DOTS.values():
        bright = np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 24**2))  # one cell is the brightest
        picture = np.maximum(picture, (bright[..., None] * np.maximum(colour, 0)).astype(np.float32))
    return torch.from_numpy(picture)[None]


@pytest.mark.slow
def test_the_dots_are_one_person(folder, dots):
    batch = torch.cat([dots, torch.zeros_like(dots)])
    found = extract(OpenPoseDetector.open([folder]), batch)
    assert [len(pose.people) for pose in found.poses] == [1, 0] and "no person" in found.report
    person = found.poses[0].people[0]
    assert set(np.flatnonzero(person.body[:, 2])) == set(DOTS)
    for part, (_, position) in DOTS.items():
        assert np.linalg.norm(person.body[part, :2] - position) < 20  # a cell of the net is 22 pixels
    assert not person.face[:, 2].any() and not person.left_hand[:, 2].any() and not person.right_hand[:, 2].any()
    wide = torch.nn.functional.pad(dots, (0, 0, 0, 256, 0, 0))  # another shape: places stay in pixels
    again = extract(OpenPoseDetector.open([folder], hands=False, face=False), wide).poses[0].people[0]
    assert np.linalg.norm(again.body[1, :2] - DOTS[1][1]) < 20


@pytest.mark.slow
def test_the_node_finds_the_same_without_network(in_comfy, extract_node, folder, dots, connections):
    """With its weights in models/openpose; and without them, where controlnet_aux by itself would fetch some."""
    control, frames, *_ = extract_node(OPENPOSE, "openpose", folder, dots)
    body = np.reshape(frames[0]["people"][0]["pose_keypoints_2d"], (18, 3))
    assert all(np.linalg.norm(body[part, :2] - position) < 20 for part, (_, position) in DOTS.items())
    assert control.shape == (1, SIDE, SIDE, 3) and control.any()
    with pytest.raises(in_comfy.module("facecdm.errors").MissingModel, match="body_pose_model"):
        extract_node(OPENPOSE, "openpose", None, dots)
    assert connections == []


def test_missing_files_and_packages_are_named(tmp_path, monkeypatch):
    with pytest.raises(MissingModel, match=r"body_pose_model\.pth.*hand_pose_model.*face key points"):
        OpenPoseDetector.open([tmp_path])
    for name in FILES.values():
        (tmp_path / name).write_bytes(b"no weights")
    monkeypatch.setitem(__import__("sys").modules, "controlnet_aux.open_pose", None)
    with pytest.raises(MissingPackage, match="pip install --no-deps controlnet_aux"):
        open_detector(OPENPOSE, [tmp_path])


def test_no_file_reaches_the_package_unchecked(openpose_package, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "facecdm.pose.openpose.import_openpose", lambda: dict.fromkeys(("body", "hands", "face"), opened.append)
    )
    for name in FILES.values():
        torch.save({"x": torch.tensor([float("nan")])}, tmp_path / name)
    with pytest.raises(BadFile, match="x holds NaN"):
        OpenPoseDetector.open([tmp_path])
    assert not opened


def test_a_file_of_something_else_is_named(openpose_package, tmp_path):
    for name in FILES.values():
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(BadFile, match=r"body_pose_model\.pth"):
        OpenPoseDetector.open([tmp_path])
