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
    assert sheet.mode == "RGB" and sheet.width == 72 + 6 * 120 + 5 * 22, "the wide picture takes two columns"
    assert contact_sheet("t", "s", []).width > 0


def test_pictures_as_large_as_a_cell_are_not_scaled():
    """Also one of two people side by side."""
    noise = [Image.effect_noise(size, 90).convert("RGB") for size in ((120, 120), (240, 120), (120, 120))]
    rows = [SheetRow("n", noise[0], tuple(SheetImage("p", picture) for picture in noise))]
    sheet = contact_sheet("t", "s", rows, cell=120)
    top, wide = 36 + 78, 2 * 120 + 22
    for left, picture in ((36 + 142, noise[0]), (36 + 2 * 142 + 11, noise[1]), (36 + 2 * 142 + wide + 22, noise[2])):
        shown = sheet.crop((left, top, left + picture.width, top + 120))
        assert shown.tobytes() == picture.tobytes()
    assert sheet.width == 72 + 5 * 120 + 4 * 22


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
