"""Previews: pictures with their faces marked, and a heat map of similarities. Needs only Pillow."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .compare import Comparison, label
from .detect import PictureFaces, to_bgr
from .detection import FaceDetection

_BAR = 18  # width of the heat map's legend
CHOSEN, OTHER, BAD = (64, 224, 160), (150, 160, 175), (235, 95, 90)
_SCALE = (
    (0.0, (28, 32, 52)),
    (0.25, (46, 74, 124)),
    (0.5, (46, 139, 150)),
    (0.75, (126, 203, 120)),
    (1.0, (250, 231, 110)),
)


def draw_pictures(images: Tensor, pictures: tuple[PictureFaces, ...]) -> Tensor:
    """Draw box, key points, number and score of every face: [B, H, W, 3] float 0 … 1.

    Chosen faces are green, others grey. A picture without a chosen face shows the reason.
    """
    if images.numel() == 0:
        return torch.zeros(1, 64, 64, 3)
    return torch.stack(
        [_to_tensor(_draw_picture(image, picture)) for image, picture in zip(images, pictures, strict=True)]
    )


def _draw_picture(image: Tensor, picture: PictureFaces) -> Image.Image:
    bgr = to_bgr(image)
    shown = np.zeros((*image.shape[:2], 3), np.uint8) if bgr is None else np.ascontiguousarray(bgr[..., ::-1])
    canvas = Image.fromarray(shown)
    draw = ImageDraw.Draw(canvas)
    unit = max(1.0, min(canvas.size) / 256)
    order = [i for i in range(len(picture.found)) if i not in picture.chosen] + list(picture.chosen)
    for number in order:  # chosen faces last, so that they are on top
        chosen = number in picture.chosen
        text = f"{number} · {picture.found[number].score:.2f}" if chosen else str(number)
        _mark(draw, canvas.size, picture.found[number], text, CHOSEN if chosen else OTHER, unit)
    if picture.problem:
        _tag(draw, canvas.size, (4 * unit, 4 * unit), _wrap(picture.problem, canvas.size[0], unit), BAD, unit)
    return canvas


def _mark(draw: ImageDraw.ImageDraw, size: tuple[int, int], face: FaceDetection, text: str, colour: tuple, unit: float):
    x0, y0, x1, y1 = (float(value) for value in face.box)
    unit = min(unit, max(1.0, (x1 - x0) / 30))  # small marks on small faces
    line = max(1, round(1.4 * unit))
    draw.rounded_rectangle(
        (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), radius=5 * unit, outline=colour, width=line
    )
    dot = min(1.8 * unit, max(0.8, (x1 - x0) / 25))
    for x, y in face.keypoints.tolist():
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=colour, outline=(20, 24, 30))
    height = _font(unit).size + 5 * unit
    _tag(draw, size, (x0, y0 - height if y0 >= height else y0 + line), text, colour, unit)


def _tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    at: tuple[float, float],
    text: str,
    colour: tuple,
    unit: float,
) -> None:
    """Draw dark text on a coloured label inside the picture."""
    font, pad = _font(unit), 2.5 * unit
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(at[0], 0), max(size[0] - width, 0))
    y = min(max(at[1], 0), max(size[1] - height, 0))
    draw.rounded_rectangle((x, y, x + width, y + height), radius=3 * unit, fill=colour)
    draw.multiline_text((x + pad - left, y + pad - top), text, font=font, fill=(16, 20, 26))


def _wrap(text: str, width: int, unit: float) -> str:
    import textwrap

    letters = max(8, int(width / (_font(unit).size * 0.55)) - 2)
    return "\n".join(textwrap.wrap(text, letters))


def _font(unit: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=max(9, round(9 * unit)))


def heat_map(comparison: Comparison, cell: int = 72) -> Tensor:
    """Draw the matrix of cosines with the faces' crops along both edges: [1, H, W, 3] float 0 … 1.

    Large matrices have small cells, and small cells have no numbers or names.
    """
    count_y, count_x = comparison.matrix.shape
    cell = max(4, min(cell, 2400 // max(count_x, count_y)))
    readable = cell >= 24
    small = ImageFont.load_default(size=11)
    columns, rows = ([label(face, i) * readable for i, face in enumerate(faces)]
                     for faces in (comparison.columns, comparison.rows))  # fmt: skip
    name_width = min(round(max(small.getlength(name) for name in rows)), 110)
    edge, gap, step = 14, 10, cell + 3 * readable
    left, top = edge + name_width + 8 + cell + gap, edge + cell + 16 + 8
    size = (left + count_x * step + 22 + _BAR + 38, max(top + count_y * step, 200) + edge)
    canvas = Image.new("RGB", size, (247, 248, 250))
    draw = ImageDraw.Draw(canvas)
    for i, face in enumerate(comparison.columns):
        x = left + i * step
        canvas.paste(_thumbnail(face.crop, cell), (x, edge))
        _centred_text(draw, x + cell / 2, edge + cell + 10, columns[i], small, cell)
    for i, face in enumerate(comparison.rows):
        y = top + i * step
        canvas.paste(_thumbnail(face.crop, cell), (left - gap - cell, y))
        _centred_text(draw, edge + name_width / 2, y + cell / 2, rows[i], small, name_width)
    font = ImageFont.load_default(size=max(9, cell // 4)) if readable else None
    for i, row in enumerate(comparison.matrix.tolist()):
        for j, value in enumerate(row):
            _cell(draw, left + j * step, top + i * step, cell, value, font)
    _colour_bar(draw, size[0] - _BAR - 46, top, size[1] - edge - top - 3, small)
    return _to_tensor(canvas)[None]


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, size: int, value: float, font) -> None:
    colour = _colour(value)
    if font is None:
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=colour)
        return
    draw.rounded_rectangle((x, y, x + size - 1, y + size - 1), radius=5, fill=colour)
    ink = (20, 24, 30) if sum(colour) > 380 else (245, 247, 250)
    draw.text((x + size / 2, y + size / 2), f"{value:.2f}", font=font, fill=ink, anchor="mm")


def _colour_bar(draw: ImageDraw.ImageDraw, x: int, y: int, height: int, font) -> None:
    for row in range(height):
        draw.line((x, y + row, x + _BAR - 1, y + row), fill=_colour(1 - row / max(height - 1, 1)))
    for value in (0.0, 0.5, 1.0):
        draw.text(
            (x + _BAR + 5, y + (1 - value) * (height - 1)),
            f"{value:.1f}",
            font=font,
            fill=(60, 66, 76),
            anchor="lm",
        )


def _centred_text(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, font, width: int) -> None:
    while len(text) > 2 and draw.textlength(text, font=font) > width + 1:
        text = text[:-2].rstrip("…") + "…"
    draw.text((x, y), text, font=font, fill=(60, 66, 76), anchor="mm")


def _thumbnail(crop: Tensor, size: int) -> Image.Image:
    pixels = (crop.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)


def _colour(value: float) -> tuple[int, int, int]:
    """The colour of a cosine: dark up to 0, bright at 1."""
    value = min(max(value, 0.0), 1.0)
    for (low, a), (high, b) in zip(_SCALE, _SCALE[1:], strict=False):
        if value <= high:
            part = (value - low) / (high - low)
            return tuple(round(p + (q - p) * part) for p, q in zip(a, b, strict=True))
    return _SCALE[-1][1]


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).copy() / 255)
