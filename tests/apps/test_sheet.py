"""Contact sheets and their text."""

from PIL import Image, ImageDraw

from facecdm.apps.sheet import SheetImage, SheetRow, contact_sheet
from facecdm.drawing import fit, font, wrap


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


def test_text_is_wrapped_and_cut():
    draw, text = ImageDraw.Draw(Image.new("RGB", (1, 1))), font(14)
    lines = wrap(draw, "a young woman, long blond hair, smiling", text, 120, 2)
    assert len(lines) == 2 and all(draw.textlength(line, text) <= 120 for line in lines)
    assert lines[-1].endswith("…") and fit(draw, "short", text, 500) == "short"
