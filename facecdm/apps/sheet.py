"""Contact sheets: one row per person, with the reference, then each image with its prompt and identity similarity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing import AMBER, FAINT, GAP, GREEN, INK, LINE, MARGIN, PAPER, fit, fitted, font, wrap, write

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont as Font

TEXT_LINES = 4
SIMILAR = 0.3  # lower similarities are not green


@dataclass(frozen=True)
class SheetImage:
    """
    prompt      shown below the image
    picture     the picture; None if it was not made
    similarity  identity similarity, -1 … 1; None if unknown
    problem     why the picture was not made
    measured    whether face detection has run
    """

    prompt: str
    picture: "Image | None"
    similarity: float | None = None
    problem: str = ""
    measured: bool = True

    @property
    def verdict(self) -> str:
        if self.similarity is not None:
            return f"identity {self.similarity:.2f}"
        if self.picture is None:
            return "not made"
        return "no face found" if self.measured else "not measured"

    @property
    def columns(self) -> int:
        """How many columns the picture takes: two if it is at least one and a half times as wide as high."""
        return 2 if self.picture is not None and self.picture.width >= 1.5 * self.picture.height else 1


@dataclass(frozen=True)
class SheetRow:
    """
    name       name of the person, or a prompt
    reference  picture in the first cell; None leaves it empty
    results    the other cells
    """

    name: str
    reference: "Image | None"
    results: tuple[SheetImage, ...]


def contact_sheet(
    title: str, subtitle: str, rows: list[SheetRow], cell: int = 256, text_lines: int = TEXT_LINES
) -> "Image":
    """Draw an RGB sheet. Images are scaled to fit cells of `cell` pixels; wide ones take two columns."""
    from PIL import Image, ImageDraw

    heading, text = font(26), font(14)
    line = round(text.size * 1.35)
    row_height = cell + text_lines * line + 34 + GAP
    columns = 1 + max((sum(result.columns for result in row.results) for row in rows), default=0)
    top = MARGIN + 78
    size = (2 * MARGIN + columns * cell + (columns - 1) * GAP, top + len(rows) * row_height + MARGIN - GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, INK, heading)
    draw.text((MARGIN, MARGIN + 30), fit(draw, subtitle, text, size[0] - 2 * MARGIN), FAINT, text)
    draw.line((MARGIN, top - 16, size[0] - MARGIN, top - 16), LINE)
    for number, row in enumerate(rows):
        y = top + number * row_height
        lines = wrap(draw, row.name, text, cell, text_lines)
        if row.reference is not None:
            sheet.paste(fitted(row.reference, cell), (MARGIN, y))
            lines = ["reference", *lines]
        write(draw, (MARGIN, y + cell + 8), lines, text, cell, (FAINT if row.reference else INK, INK))
        x = MARGIN
        for result in row.results:
            x, width = x + cell + GAP, result.columns * (cell + GAP) - GAP
            if result.picture is not None:
                sheet.paste(fitted(result.picture, cell, width), (x, y))
            else:
                draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=LINE)
            draw_verdict(draw, (x, y + cell + 8), cell, result, text)
            lines = wrap(draw, result.problem or result.prompt, text, width, text_lines)
            write(draw, (x, y + cell + 34), lines, text, width, (INK,))
            x += width - cell
    return sheet


def draw_verdict(draw: "ImageDraw", at: tuple[int, int], width: int, result: SheetImage, text: "Font") -> None:
    """Draw the verdict. A similarity also gets a bar from 0 to 1, which is green from 0.3."""
    x, y = at
    similar = result.similarity is not None and result.similarity >= SIMILAR
    draw.text((x, y - 2), result.verdict, GREEN if similar else AMBER, text)
    if result.similarity is None:
        return
    left = x + 110
    draw.rounded_rectangle((left, y + 4, x + width - 1, y + 9), 3, LINE)
    length = (x + width - 1 - left) * min(max(result.similarity, 0.0), 1.0)
    if length >= 6:
        draw.rounded_rectangle((left, y + 4, left + length, y + 9), 3, GREEN if similar else AMBER)
