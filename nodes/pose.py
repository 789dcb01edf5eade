"""Extract Pose, Edit Pose and Load FaceCDM Demo Pose ControlNet."""

from contextlib import contextmanager

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..facecdm.demo.paths import POSE_CONTROLNET, in_use
from ..facecdm.errors import FaceCDMError
from ..facecdm.files import file_fingerprint
from ..facecdm.pose.detectors import BODY_DETECTORS, DETECTORS, FACE, open_detector
from ..facecdm.pose.edit import FITS, Edit, edited, retargeted
from ..facecdm.pose.extract import DRAWINGS, FIVE_POINTS, PEOPLE, SKIPPED, Drawing, FaceDetector, extract
from ..facecdm.pose.value import Pose, poses_from_openpose, poses_to_openpose
from .checks import checked
from .inputs import choice, integer, number, optional, switch
from .model_folders import folders
from .new_fields import aliases
from .sockets import FACE_ANALYZER, POSE_KEYPOINT
from .warn import output

CATEGORY = "FaceCDM/pose"
MIN_SCORE = 0.5
SHOWN = 16  # pictures in the preview under the node; the output has all of them


def drawing_inputs() -> list:
    return [
        choice(
            "drawing",
            DRAWINGS,
            DRAWINGS[0],
            "What the ControlNet was trained on: OpenPose's sticks and dots, or InstantID's five coloured points.",
        ),
        switch("draw_body", True, "OpenPose drawing: show the body. Face key points give nose and eyes."),
        switch("draw_hands", True, "OpenPose drawing: show the hands."),
        switch("draw_face", True, "OpenPose drawing: show the face's 70 points."),
        number(
            "thickness",
            1.0,
            0.1,
            10.0,
            0.1,
            "Thickness of lines and dots; 1 is what ControlNets were trained on. It scales with the picture.",
        ),
    ]


def pose_outputs() -> list:
    return [
        io.Image.Output(display_name="control image", tooltip="The poses drawn on black, for Apply ControlNet."),
        POSE_KEYPOINT.Output(
            display_name="pose", tooltip="OpenPose JSON of every picture, for Edit Pose and for nodes of other packs."
        ),
        io.Float.Output(
            display_name="yaw",
            tooltip="Head rotation in degrees, positive to the viewer's right: the largest head of the first picture "
            "that shows one, else 0.",
        ),
        io.Float.Output(display_name="pitch", tooltip="Head rotation in degrees, positive downwards."),
        io.Float.Output(display_name="roll", tooltip="Head rotation in degrees, positive counter-clockwise."),
        io.String.Output(display_name="report", tooltip="What was found in each picture, and which were skipped."),
    ]


def draw_all(poses: list[Pose], drawing: Drawing) -> torch.Tensor:
    """Draw the poses, IMAGE [B, H, W, 3]. All are fitted into the size of the first one."""
    size = poses[0].size
    pictures = [drawing(pose if pose.size == size else retargeted(pose, size)) for pose in poses]
    return torch.from_numpy(np.stack(pictures).astype(np.float32) / 255)


class ExtractPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMExtractPose",
            display_name="Extract Pose",
            category=CATEGORY,
            **aliases("openpose", "dwpose", "face key points"),
            description="Extracts the poses of people in pictures: a control image for a ControlNet, OpenPose key "
            "points, "
            "and the head's rotation. Face key points need only a face pack.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                choice(
                    "detector",
                    DETECTORS,
                    FACE,
                    "Face key points by the analyzer, or whole bodies by OpenPose or DWPose, whose weights are "
                    "in models/openpose or models/dwpose.",
                ),
                optional(
                    FACE_ANALYZER,
                    "analyzer",
                    "For face key points: from Load Face Analyzer. With landmarks on a face has 70 points, else five.",
                ),
                choice("people", PEOPLE, PEOPLE[0], "All people of a picture, or the largest only."),
                number(
                    "min_score",
                    MIN_SCORE,
                    0.05,
                    1.0,
                    0.05,
                    "Lowest score that counts as a face or a person. Lower it for difficult pictures.",
                ),
                *drawing_inputs(),
            ],
            outputs=pose_outputs(),
        )

    @classmethod
    @checked
    def execute(
        cls, image, detector, people, min_score, drawing, draw_body, draw_hands, draw_face, thickness, analyzer=None
    ) -> io.NodeOutput:
        from comfy.utils import ProgressBar

        face = draw_face or drawing == FIVE_POINTS  # which draws nothing else
        finder = open_finder(detector, analyzer, min_score, draw_hands, face)
        bar = ProgressBar(max(len(image), 1))
        with on_gpu(finder):
            found = extract(finder, image, people, lambda done, total: bar.update_absolute(done, total))
        report = found.report
        if isinstance(finder, FaceDetector) and not finder.analyzer.files.landmarks:
            report += (
                "\nThis analyzer has no landmarks, so a face has five points. For 70 points switch landmarks on in "
                "Load Face Analyzer."
            )
        style = Drawing(drawing, draw_body, draw_hands, draw_face, thickness)
        warnings = [*_unused(detector, analyzer, min_score), *found.problems]
        return pose_output(cls, list(found.poses), style, found.first_angles, report, warnings)


def _unused(detector: str, analyzer, min_score: float) -> list[str]:
    """Warnings for inputs of Extract Pose that the detector does not use."""
    if detector == FACE:
        return []
    warnings = []
    if analyzer is not None:
        warnings.append(f"analyzer is connected and is not used: detector is {detector}")
    if min_score != MIN_SCORE and "min_score" not in BODY_DETECTORS[detector].settings:
        warnings.append(f"min_score is {min_score:g} and has no effect: {detector} has no such limit")
    return warnings


def open_finder(detector: str, analyzer, min_score: float, hands: bool, face: bool):
    """Open the detector for `extract`. Raises FaceCDMError if face key points are asked for without an analyzer."""
    if detector == FACE:
        if analyzer is None:
            raise FaceCDMError(
                "Extract Pose with face key points needs an analyzer: connect Load Face Analyzer (with "
                "landmarks on), or choose OpenPose or DWPose."
            )
        return FaceDetector(analyzer, min_score)
    import comfy.model_management

    weight_folders = folders(BODY_DETECTORS[detector].folder)
    with torch.inference_mode(False):  # the weights may outlive this run
        return open_detector(
            detector, weight_folders, str(comfy.model_management.get_torch_device()), hands, face, min_score
        )


@contextmanager
def on_gpu(finder):
    """Keep OpenPose's networks on the GPU only while they are used, since ComfyUI does not manage them."""
    import comfy.model_management as management

    move = getattr(finder, "to", lambda device: None)
    with torch.inference_mode(False):
        move(management.get_torch_device())
    try:
        yield
    finally:
        with torch.inference_mode(False):
            move(management.unet_offload_device())


class EditPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMEditPose",
            display_name="Edit Pose",
            category=CATEGORY,
            **aliases("turn head", "openpose editor"),
            description="Edits a pose before it is drawn: turns heads, mirrors, scales, moves, and fits it into "
            "another size.",
            inputs=[
                POSE_KEYPOINT.Input("pose", tooltip="From Extract Pose, or another pack's DWPose or OpenPose node."),
                number("turn_yaw", 0.0, -90.0, 90.0, 1.0, "Degrees by which heads turn to the viewer's right."),
                number("turn_pitch", 0.0, -60.0, 60.0, 1.0, "Degrees by which heads turn down."),
                number("turn_roll", 0.0, -180.0, 180.0, 1.0, "Degrees by which heads roll counter-clockwise."),
                switch("mirror", False, "Swap left and right."),
                number("scale", 1.0, 0.05, 20.0, 0.05, "Scale of the people about the centre of the picture."),
                number("move_right", 0.0, -2.0, 2.0, 0.01, "Shift in picture widths; negative to the left."),
                number("move_down", 0.0, -2.0, 2.0, 0.01, "Shift in picture heights; negative upwards."),
                io.Int.Input(
                    "width", default=0, min=0, max=16384, tooltip="Width of the new picture; 0 keeps that of the pose."
                ),
                integer("height", 0, 0, 16384, "Height of the new picture; 0 keeps that of the pose."),
                choice(
                    "fit",
                    FITS,
                    "fit inside",
                    "If the new picture has other proportions: stretch, keep everything visible, or leave no border.",
                ),
                optional(io.Image, "onto", "A picture whose size replaces width and height."),
                *drawing_inputs(),
            ],
            outputs=pose_outputs(),
        )

    @classmethod
    @checked
    def execute(
        cls,
        pose,
        turn_yaw,
        turn_pitch,
        turn_roll,
        mirror,
        scale,
        move_right,
        move_down,
        width,
        height,
        fit,
        drawing,
        draw_body,
        draw_hands,
        draw_face,
        thickness,
        onto=None,
    ) -> io.NodeOutput:
        from ..facecdm.pose.extract import describe, head_angles
        from ..facecdm.pose.head import Angles

        edit = Edit(turn_yaw, turn_pitch, turn_roll, mirror, scale, move_right, move_down)
        given = poses_from_openpose(pose)
        poses = [edited(one, edit) for one in given]
        if onto is not None:
            height, width = onto.shape[1:3]
        poses = [retargeted(one, (height or one.size[0], width or one.size[1]), fit) for one in poses]
        report = "\n".join(f"Picture {number}: {describe(one)}" for number, one in enumerate(poses))
        angles = next((found for found in map(head_angles, poses) if found), Angles(0.0, 0.0, 0.0))
        warnings = [line for line in report.splitlines() if SKIPPED in line]
        turns = {"turn_yaw": turn_yaw, "turn_pitch": turn_pitch, "turn_roll": turn_roll}
        names = [name for name, degrees in turns.items() if degrees]
        warnings += [
            f"Picture {number}: {', '.join(names)} without effect, because no person has face points"
            for number, one in enumerate(given)
            if names and one.people and head_angles(one) is None
        ]
        style = Drawing(drawing, draw_body, draw_hands, draw_face, thickness)
        return pose_output(cls, poses, style, angles, report, warnings)


def pose_output(cls, poses: list[Pose], drawing: Drawing, angles, report: str, warnings=()) -> io.NodeOutput:
    drawn = draw_all(poses, drawing)
    warnings = [
        *warnings,
        *(
            f"Picture {number}: its control image is black, because the drawing {drawing.style} shows no point of its "
            "people. Choose the other drawing, or switch draw_body, draw_hands and draw_face on."
            for number, pose in enumerate(poses)
            if pose.people and not drawn[number].any()
        ),
    ]
    return output(
        drawn,
        poses_to_openpose(poses),
        round(angles.yaw, 2),
        round(angles.pitch, 2),
        round(angles.roll, 2),
        report,
        warnings=warnings,
        preview=ui.PreviewImage(drawn[:SHOWN], cls=cls),
    )


class LoadDemoPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadDemoPose",
            display_name="Load FaceCDM Demo Pose ControlNet",
            category="FaceCDM/demo",
            description="Loads the pose ControlNet of the demo model, for core's Apply ControlNet. It takes the "
            "OpenPose "
            "drawing of face key points by Extract Pose.",
            inputs=[],
            outputs=[io.ControlNet.Output(tooltip="A control-LoRA for the model of Load FaceCDM Demo Model.")],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        return file_fingerprint(in_use(POSE_CONTROLNET))

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..facecdm.hosts.comfy.demo.pose import load

        return io.NodeOutput(load())


NODES: list[type[io.ComfyNode]] = [ExtractPose, EditPose, LoadDemoPose]
