"""The pose nodes as ComfyUI runs them: V3 classes in inference mode, sockets that core and controlnet_aux use."""

import inspect
from pathlib import Path

import pytest
import torch

NAMES = ("ExtractPose", "EditPose", "LoadDemoPose")
DRAWING = {"drawing": "OpenPose", "draw_body": True, "draw_hands": True, "draw_face": True, "thickness": 1.0}
EXTRACT = {"detector": "face key points", "people": "all", "min_score": 0.5, **DRAWING}
EDIT = {"turn_yaw": 0.0, "turn_pitch": 0.0, "turn_roll": 0.0, "mirror": False, "scale": 1.0, "move_right": 0.0,
        "move_down": 0.0, "width": 0, "height": 0, "fit": "fit inside", **DRAWING}  # fmt: skip


@pytest.fixture(scope="module")
def analyzer(in_comfy):
    return in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=True)[0]


@pytest.fixture(scope="module")
def extracted(in_comfy, analyzer, astronaut):
    batch = torch.cat([astronaut, torch.zeros_like(astronaut)])
    return in_comfy.run("FaceCDMExtractPose", image=batch, analyzer=analyzer, **EXTRACT)


@pytest.fixture
def edit(in_comfy, extracted):
    def edit(pose=None, **inputs):
        return in_comfy.run("FaceCDMEditPose", pose=pose or extracted[1], **EDIT | inputs)

    return edit


@pytest.mark.parametrize("name", NAMES)
def test_schema_execute_and_page_agree(in_comfy, name):
    node = getattr(in_comfy.module("nodes.pose"), name)
    schema = node.GET_SCHEMA()
    assert schema.description and schema.category.startswith("FaceCDM/")
    assert all(entry.tooltip and entry.tooltip.endswith(".") for entry in [*schema.inputs, *schema.outputs])
    assert {entry.id for entry in schema.inputs} == set(inspect.signature(node.execute).parameters)
    page = (Path(__file__).parents[2] / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
    assert all(f"`{entry.id}`" in page for entry in schema.inputs)
    assert all(f"`{entry.display_name or entry.get_io_type()}`" in page for entry in schema.outputs)


def test_a_photograph_and_an_empty_picture(extracted):
    control, pose, yaw, pitch, roll, report = extracted
    assert control.shape == (2, 512, 512, 3) and control.dtype == torch.float32
    assert control[0].any() and not control[1].any() and control.max() == 1
    assert [len(frame["people"]) for frame in pose] == [1, 0] and pose[0]["canvas_width"] == 512
    assert all(isinstance(angle, float) and abs(angle) < 45 for angle in (yaw, pitch, roll))
    assert len(report.splitlines()) == 2 and "no person" in report


def test_core_can_draw_our_poses(extracted):
    """As core's SDPoseDrawKeypoints (newer ComfyUI) and controlnet_aux read a POSE_KEYPOINT: flat, whole lists."""
    for person in extracted[1][0]["people"]:
        for key, count in (("pose_keypoints_2d", 18), ("face_keypoints_2d", 70), ("hand_left_keypoints_2d", 21)):
            assert len(person[key]) == 3 * count and all(isinstance(number, float) for number in person[key])
            assert set(person[key][2::3]) <= {0.0, 1.0}


def test_without_landmarks_there_are_five_points_and_a_note(in_comfy, astronaut):
    plain = in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False)[0]
    inputs = EXTRACT | {"drawing": "InstantID 5 points", "people": "largest"}
    control, pose, *_, report = in_comfy.run("FaceCDMExtractPose", image=astronaut, analyzer=plain, **inputs)
    assert "landmarks" in report and control.any() and not any(pose[0]["people"][0]["face_keypoints_2d"])


def test_an_edit_that_does_nothing_gives_the_same(edit, extracted):
    again = edit()
    assert torch.equal(again[0], extracted[0]) and again[1] == extracted[1]
    assert again[2:5] == pytest.approx(extracted[2:5], abs=0.1)


def test_edits_do_what_they_say(edit, extracted):
    yaw = extracted[2]
    assert edit(turn_yaw=25.0)[2] == pytest.approx(yaw + 25, abs=2)
    assert edit(mirror=True)[2] == pytest.approx(-yaw, abs=4)
    moved = edit(move_right=0.1)[1][0]["people"][0]["face_keypoints_2d"][0]
    assert moved == pytest.approx(extracted[1][0]["people"][0]["face_keypoints_2d"][0] + 51.2, abs=0.1)
    assert edit(width=256, height=384)[0].shape == (2, 384, 256, 3)
    assert edit(onto=torch.zeros(1, 96, 64, 3))[0].shape == (2, 96, 64, 3)


def test_other_packs_poses_are_taken(edit):
    """controlnet_aux leaves parts out, and sizes differ from picture to picture."""
    person = {"pose_keypoints_2d": [0.5, 0.5, 1.0] * 18, "face_keypoints_2d": None, "hand_left_keypoints_2d": None,
              "hand_right_keypoints_2d": None}  # fmt: skip
    frames = [{"people": [person], "canvas_height": 64, "canvas_width": 64},
              {"people": [], "canvas_height": 32, "canvas_width": 64}]  # fmt: skip
    control, pose, yaw, *_ = edit(pose=frames)
    assert control.shape == (2, 64, 64, 3) and control[0].any() and yaw == 0
    assert pose[0]["people"][0]["pose_keypoints_2d"][:3] == [32, 32, 1]


@pytest.fixture
def warnings(in_comfy):
    def warnings(name, **inputs):
        shown = in_comfy.node_output(name, **inputs).ui
        return shown.get("facecdm_warnings", []) if isinstance(shown, dict) else []

    return warnings


def test_a_black_control_image_and_a_turn_without_effect_are_warnings(warnings, extracted):
    body = {"pose_keypoints_2d": [9.0, 9.0, 0.0] * 2 + [40.0, 30.0, 1.0, 50.0, 60.0, 1.0] * 8}
    pose = [{"people": [body], "canvas_height": 64, "canvas_width": 64}]
    black, turn = sorted(warnings("FaceCDMEditPose", pose=pose, **EDIT | {"turn_yaw": 9.0, "draw_body": False}))
    assert black.startswith("Picture 0: its control image is black, because the drawing OpenPose shows no point")
    assert turn.startswith("Picture 0: turn_yaw without effect")
    (five,) = warnings("FaceCDMEditPose", pose=pose, **EDIT | {"drawing": "InstantID 5 points"})
    assert "the drawing InstantID 5 points shows no point" in five
    assert warnings("FaceCDMEditPose", pose=extracted[1], **EDIT | {"turn_yaw": 9.0}) == [
        "Picture 1: skipped, no person was found"
    ]


class StandIn:
    """A body detector that finds nobody."""

    def __init__(self):
        self.devices = []

    def to(self, device):
        self.devices.append(device)

    def __call__(self, bgr):
        return []


@pytest.fixture
def opened(in_comfy, monkeypatch):
    """What Extract Pose opens: (settings, the detector)."""
    opened = []

    def open_detector(*settings):
        opened.append((settings, StandIn()))
        return opened[-1][1]

    monkeypatch.setattr(in_comfy.module("nodes.pose"), "open_detector", open_detector)
    return opened


def test_the_five_points_need_the_face_whatever_is_drawn_else(in_comfy, astronaut, opened):
    for drawing, face in (("InstantID 5 points", True), ("OpenPose", False)):
        settings = EXTRACT | {"detector": "OpenPose", "drawing": drawing, "draw_face": False}
        in_comfy.run("FaceCDMExtractPose", image=astronaut, **settings)
        assert opened[-1][0][4] is face


def test_openposes_networks_leave_the_gpu_after_use(in_comfy, astronaut, opened, monkeypatch):
    import comfy.model_management as management

    monkeypatch.setattr(management, "get_torch_device", lambda: "gpu")
    monkeypatch.setattr(management, "unet_offload_device", lambda: "memory")
    in_comfy.run("FaceCDMExtractPose", image=astronaut, **EXTRACT | {"detector": "OpenPose"})
    assert opened[-1][1].devices == ["gpu", "memory"]
    monkeypatch.setattr(StandIn, "__call__", lambda self, bgr: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        in_comfy.run("FaceCDMExtractPose", image=astronaut, **EXTRACT | {"detector": "OpenPose"})
    assert opened[-1][1].devices == ["gpu", "memory"]


def test_inputs_that_a_body_detector_ignores(warnings, astronaut, analyzer, opened):
    def unused(**changes):
        found = warnings("FaceCDMExtractPose", image=astronaut, **EXTRACT | changes)
        return [text.split()[0] for text in found if not text.startswith("Picture")]

    assert unused(detector="OpenPose", analyzer=analyzer, min_score=0.3) == ["analyzer", "min_score"]
    assert unused(detector="DWPose", analyzer=analyzer, min_score=0.3) == ["analyzer"]
    assert unused(detector="OpenPose") == []


def test_mistakes_are_named(in_comfy, astronaut, edit):
    error = in_comfy.module("facecdm.errors").FaceCDMError
    with pytest.raises(error, match="connect Load Face Analyzer"):
        in_comfy.run("FaceCDMExtractPose", image=astronaut, **EXTRACT)
    for detector, folder in (("OpenPose", "openpose"), ("DWPose", "dwpose")):
        with pytest.raises(error, match=f"models.{folder}"):
            in_comfy.run("FaceCDMExtractPose", image=astronaut, **EXTRACT | {"detector": detector})
    with pytest.raises(error, match="OpenPose JSON"):
        edit(pose=[{"people": []}])
