"""A plot of a training run's losses, drawn with Pillow only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

WIDTH, ROW, LEFT, BOTTOM, TOP = 960, 18, 70, 40, 12
HEIGHT = 380  # without the legend
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a", "#0a7ea4")
SKIPPED = ("step", "gradient")


@dataclass(frozen=True)
class Curve:
    """A loss over steps; `smooth` is its moving mean."""

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def smooth(self) -> np.ndarray:
        window = max(len(self.values) // 25, 1)
        padded = np.pad(self.values, (window // 2, window - 1 - window // 2), mode="edge")
        return np.convolve(padded, np.ones(window) / window, mode="valid")


def curves(history: Sequence[dict]) -> list[Curve]:
    """Each loss of the history. Steps continue across stages, although the history restarts at 1 in each stage."""
    points: dict[str, list[tuple[int, float]]] = {}
    offset = last = 0
    for line in history:
        offset += last if line["step"] < last else 0
        last = line["step"]
        for name, value in line.items():
            if name not in SKIPPED and np.isfinite(value):
                points.setdefault(name, []).append((offset + last, value))
    return [Curve(name, *np.array(found, dtype=np.float64).T) for name, found in points.items()]


def draw_losses(history: Sequence[dict]) -> Image.Image:
    """Plot every loss of the history in one frame, scaled to its highest moving mean. The legend gives that mean."""
    found = curves(history)
    last = max((curve.steps[-1] for curve in found), default=1.0)
    legend = TOP + ROW * -(-len(found) // 2)
    picture = Image.new("RGB", (WIDTH, legend + HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    frame = (LEFT, legend + TOP, WIDTH - 10, legend + HEIGHT - BOTTOM)
    _axes(pen, frame, last)
    for number, curve in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        top = max(float(np.abs(curve.smooth).max()), 1e-12)
        if len(curve.values) <= 2000:
            pen.point(_points(frame, curve.steps / last, curve.values / top), fill=_pale(colour))
        line = _points(frame, curve.steps / last, curve.smooth / top)
        pen.line(line if len(line) > 1 else line * 2, fill=colour, width=2)
        corner = (LEFT + number % 2 * (WIDTH - LEFT) // 2, TOP + ROW * (number // 2))
        pen.text(corner, f"{curve.name}: 1 is {top:.3g}, now {curve.smooth[-1]:.3g}", fill=colour)
    return picture


def _axes(pen: ImageDraw.ImageDraw, frame: tuple, last: float) -> None:
    left, top, right, bottom = frame
    pen.rectangle(frame, outline="#d0d7de")
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + part * (right - left), bottom - part * (bottom - top)
        pen.line((left, y, right, y), fill="#eaeef2")
        pen.text((left - 34, y - 6), f"{part:.2f}", fill="#57606a")
        pen.text((x - 14, bottom + 6), f"{part * last:.0f}", fill="#57606a")
    pen.text((right - 40, bottom + 22), "steps", fill="#57606a")


def _points(frame: tuple, x: np.ndarray, y: np.ndarray) -> list[tuple[float, float]]:
    left, top, right, bottom = frame
    return list(zip((left + x * (right - left)).tolist(), (bottom - np.clip(y, 0, 1.02) * (bottom - top)).tolist()))


def _pale(colour: str) -> tuple[int, ...]:
    return tuple((int(colour[i : i + 2], 16) + 2 * 255) // 3 for i in (1, 3, 5))
