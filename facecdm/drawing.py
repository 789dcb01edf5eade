"""Drawing parts of the contact sheets: colours, fonts, wrapped text, fitted images."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont as Font

PAPER, INK, FAINT, LINE, GREEN, AMBER = "#f6f4ef", "#22201c", "#7d786d", "#d8d3c6", "#2f7d55", "#b4552d"
FONTS = ("DejaVuSans.ttf", "Arial.ttf", "Helvetica.ttc", "LiberationSans-Regular.ttf")
MARGIN, GAP = 36, 22  # pixels


def write(
    draw: "ImageDraw",
    at: tuple[int, int],
    lines: list[str],
    text: "Font",
    width: int,
    colours: tuple[str, ...],
) -> None:
    """Draw lines of text downwards from `at`, one colour each. The last colour is used for all further lines."""
    for number, line in enumerate(lines):
        colour = colours[min(number, len(colours) - 1)]
        draw.text((at[0], at[1] + number * round(text.size * 1.35)), fit(draw, line, text, width), colour, text)


def fitted(picture: "Image", height: int, width: int = 0) -> "Image":
    """The whole picture, scaled into a rectangle; without a width into a square."""
    from PIL import Image, ImageOps

    size = (width or height, height)
    small = ImageOps.contain(picture.convert("RGB"), size, Image.Resampling.LANCZOS)
    framed = Image.new("RGB", size, LINE)
    framed.paste(small, ((size[0] - small.width) // 2, (height - small.height) // 2))
    return framed


def wrap(draw: "ImageDraw", text: str, font: "Font", width: int, most: int) -> list[str]:
    """Wrap the text to at most `most` lines of at most `width` pixels, with an ellipsis if it is cut."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = lines[: most - 1] + [" ".join(lines[most - 1 :])]
    return [fit(draw, line, font, width) for line in lines]


def fit(draw: "ImageDraw", text: str, font: "Font", width: int) -> str:
    """The text, cut to `width` pixels with an ellipsis."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def font(size: int) -> "Font":
    """A common font, else Pillow's built-in font (10.1 and newer)."""
    from PIL import ImageFont

    for name in FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
