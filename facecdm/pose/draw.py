"""Control images of poses: OpenPose's sticks and dots, InstantID's five points."""

import colorsys
import math

import numpy as np
from PIL import Image, ImageDraw

from .layout import COLOURS, FINGERS, FIVE_COLOURS, FIVE_NOSE, LIMBS
from .value import VISIBLE, Pose, PosePerson

OPENPOSE_SIDE, INSTANTID_SIDE = 512, 1024  # shorter side in pixels at which the widths below apply
STICK, JOINT, DOT, FINGER = 4.0, 4.0, 3.0, 2.0  # OpenPose: half width of a limb, radii, width of a finger's line
FIVE_STICK, FIVE_JOINT = 4.0, 10.0  # InstantID: half width of a limb, radius
DIM = 0.6  # brightness of limbs, relative to joints


def draw_openpose(
    pose: Pose, body: bool = True, hands: bool = True, face: bool = True, thickness: float = 1.0
) -> np.ndarray:
    """Draw the pose on black for OpenPose's ControlNets, uint8 [H, W, 3] RGB. Widths scale with the picture.

    Widths and colours are those of ControlNet's annotator at 512 pixels (lllyasviel, annotator/openpose/util.py).
    """
    canvas, draw = _canvas(pose)
    unit = thickness * min(pose.size) / OPENPOSE_SIDE
    for person in pose.people:
        if body:
            _sticks(draw, person.body, LIMBS, COLOURS, STICK * unit)
            _joints(draw, person.body, COLOURS, JOINT * unit)
        if hands:
            for hand in (person.left_hand, person.right_hand):
                _hand(draw, hand, unit)
        if face:
            _joints(draw, person.face, ((255, 255, 255),) * len(person.face), DOT * unit)
    return np.asarray(canvas)


def draw_five(pose: Pose, thickness: float = 1.0) -> np.ndarray:
    """Draw eyes, nose and mouth on black for InstantID's ControlNet, uint8 [H, W, 3] RGB.

    Widths and colours are those of InstantID (instantX-research/InstantID, draw_kps) at 1024 pixels.
    """
    canvas, draw = _canvas(pose)
    unit = thickness * min(pose.size) / INSTANTID_SIDE
    limbs = tuple((point, FIVE_NOSE) for point in range(len(FIVE_COLOURS)) if point != FIVE_NOSE)
    colours = tuple(FIVE_COLOURS[point] for point, _ in limbs)
    for person in pose.people:
        five = person.with_five().five
        _sticks(draw, five, limbs, colours, FIVE_STICK * unit)
        _joints(draw, five, FIVE_COLOURS, FIVE_JOINT * unit)
    return np.asarray(canvas)


def _canvas(pose: Pose) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (pose.size[1], pose.size[0]))
    return canvas, ImageDraw.Draw(canvas)


def _sticks(draw: ImageDraw.ImageDraw, points: np.ndarray, limbs, colours, width: float) -> None:
    for (a, b), colour in zip(limbs, colours, strict=False):
        if min(points[a, 2], points[b, 2]) >= VISIBLE:
            draw.polygon(_ellipse(points[a], points[b], max(width, 0.6)), fill=tuple(int(c * DIM) for c in colour))


def _ellipse(a: np.ndarray, b: np.ndarray, half_width: float) -> list[tuple[float, float]]:
    """Corners of an ellipse with the long axis from a to b."""
    (x0, y0), (x1, y1) = a[:2].tolist(), b[:2].tolist()
    angle, half_length = math.atan2(y1 - y0, x1 - x0), math.hypot(x1 - x0, y1 - y0) / 2
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    along, across = half_length * np.cos(turn), half_width * np.sin(turn)
    x = (x0 + x1) / 2 + along * math.cos(angle) - across * math.sin(angle)
    y = (y0 + y1) / 2 + along * math.sin(angle) + across * math.cos(angle)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _joints(draw: ImageDraw.ImageDraw, points: np.ndarray, colours, radius: float) -> None:
    for (x, y, confidence), colour in zip(points.tolist(), colours, strict=False):
        if confidence >= VISIBLE:
            _dot(draw, x, y, max(radius, 0.5), colour)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _hand(draw: ImageDraw.ImageDraw, points: np.ndarray, unit: float) -> None:
    for number, (a, b) in enumerate(FINGERS):
        if min(points[a, 2], points[b, 2]) >= VISIBLE:
            colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(number / len(FINGERS), 1, 1))
            draw.line(
                (*points[a, :2].tolist(), *points[b, :2].tolist()), fill=colour, width=max(1, round(FINGER * unit))
            )
    _joints(draw, points, ((0, 0, 255),) * len(points), JOINT * unit)


def person_box(person: PosePerson) -> np.ndarray | None:
    """Box x0, y0, x1, y1 around the visible points; None without any."""
    points = np.concatenate(list(person.parts.values()))
    visible = points[points[:, 2] >= VISIBLE, :2]
    return np.concatenate([visible.min(0), visible.max(0)]) if len(visible) else None
