"""Contact sheets and their text."""

import pytest
from PIL import Image, ImageColor, ImageDraw

from facecdm.apps.sheet import SheetImage, SheetRow, contact_sheet
from facecdm.drawing import AMBER, GREEN, fit, font, wrap


def test_a_sheet_of_odd_parts():
    """Images of any size, long texts, an image that was not made, no rows."""
    results = (
        SheetImage("word " * 200, Image.new("RGB", (10, 900)), 1.7),
        SheetImage("x" * 500, Image.new("RGBA", (900, 10)), None),
        SheetImage("p", None, problem="node 3 (KSampler) failed: out of memory"),
        SheetImage("", Image.new("L", (1, 1)), -0.3),
    )
    sheet = contact_sheet("t" * 300, "s" * 500, [SheetRow("n" * 99, Image.new("RGB", (4, 4)), results)] * 2, cell=120)
    assert sheet.mode == "RGB" and sheet.width == 72 + 5 * 120 + 4 * 22
    assert contact_sheet("t", "s", []).width > 0


@pytest.mark.parametrize(("similarity", "colour"), [(-0.1, AMBER), (0.299, AMBER), (0.3, GREEN), (0.9, GREEN)])
def test_only_a_similar_face_is_green(similarity, colour):
    """The figure and its bar."""
    results = (SheetImage("prompt", Image.new("RGB", (4, 4)), similarity),)
    sheet = contact_sheet("t", "s", [SheetRow("n", Image.new("RGB", (4, 4)), results)], cell=300)
    found = {pixel for _, pixel in sheet.getcolors(1 << 20)} & set(map(ImageColor.getrgb, (GREEN, AMBER)))
    assert found == {ImageColor.getrgb(colour)}


def test_text_is_wrapped_and_cut():
    draw, text = ImageDraw.Draw(Image.new("RGB", (1, 1))), font(14)
    lines = wrap(draw, "a young woman, long blond hair, smiling", text, 120, 2)
    assert len(lines) == 2 and all(draw.textlength(line, text) <= 120 for line in lines)
    assert lines[-1].endswith("…") and fit(draw, "short", text, 500) == "short"
