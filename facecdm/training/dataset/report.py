"""Report of the kept and the dropped pictures, with reasons: report.md, contact.jpg, and report.json for programs."""

import io
import json
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...drawing import AMBER, FAINT, GAP, INK, MARGIN, PAPER, fit, fitted, font, wrap, write
from ...files import write_atomically
from .manifest import Record
from .screening import Dropped
from .sources import Item, Unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 24  # pictures of each kind on the contact sheet
COLUMNS, CELL, TEXT_LINES = 8, 160, 3
LISTED = 200
NAMES = ("report.json", "report.md", "contact.jpg")


@dataclass(frozen=True)
class Cell:
    """A picture of the contact sheet.

    item      the picture
    name      the line below the picture
    caption   the picture's caption, or why it was dropped
    """

    item: Item
    name: str
    caption: str


def write_report(
    folder: Path,
    source: str,
    records: Sequence[Record],
    dropped: list[Dropped],
    item: Callable[[str], Item],
    total: int,
    outliers: list[str],
    notes: Sequence[str],
) -> None:
    """Write report.json, report.md and contact.jpg. Raises OSError.

    item       the item of a record's key, for the contact sheet
    total      number of pictures in the source
    outliers   names of pictures whose face differs from the person's other faces
    notes      what the source noticed
    """
    summary = summarise(records, dropped, total)
    plain = {
        "source": source,
        **summary,
        "notes": list(notes),
        "doubtful": outliers,
        "dropped": [{"name": drop.name, "reason": drop.reason} for drop in dropped],
    }
    write_atomically(folder / "report.json", json.dumps(plain, ensure_ascii=False, indent=1).encode())
    write_atomically(folder / "report.md", describe(source, summary, dropped, outliers, notes).encode())
    kept = [
        Cell(item(record.key), f"{record.person} · {record.name}", record.caption or "(no caption)")
        for record in sample_evenly(records)
    ]
    lost = [Cell(drop.item, drop.name, drop.reason) for drop in sample_evenly(dropped)]
    sheet = contact_sheet(source, [(f"Kept: {len(records)}", kept, INK), (f"Dropped: {len(dropped)}", lost, AMBER)])
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=88)
    write_atomically(folder / "contact.jpg", content.getvalue())


def summarise(records: Sequence[Record], dropped: list[Dropped], total: int) -> dict:
    people, captions, without = array("i"), array("q"), 0
    buckets: Counter = Counter()
    for record in records:
        people.append(record.identity)
        captions.append(int(record.keys.text[:15], 16))  # 60 bits of the caption's hash
        without += not record.caption
        buckets[record.bucket] += 1
    photos = np.unique(np.asarray(people), return_counts=True)[1]
    return {
        "pictures": total,
        "kept": len(records),
        "people": len(photos),
        "people_with_one_photo": int((photos == 1).sum()),
        "captions": len(np.unique(np.asarray(captions))),
        "without_caption": without,
        "buckets": {f"{width} × {height}": count for (height, width), count in sorted(buckets.items())},
        "reasons": dict(Counter(kind(drop.reason) for drop in dropped).most_common()),
    }


def kind(reason: str) -> str:
    """The reason without details of the single picture."""
    if reason.startswith("the same picture"):
        return "the same picture as another"
    return reason.split(":")[0].split(" (")[0]


def describe(source: str, summary: dict, dropped: list[Dropped], outliers: list[str], notes: Sequence[str] = ()) -> str:
    lines = [
        f"# Data set: {source}",
        "",
        f"{summary['kept']} of {summary['pictures']} pictures kept, {summary['people']} people "
        f"({summary['people_with_one_photo']} with one photo only), {summary['captions']} different captions "
        f"({summary['without_caption']} pictures without).",
        "",
    ]
    lines += [f"- bucket {name}: {count}" for name, count in summary["buckets"].items()]
    lines += [f"- {note}" for note in notes]
    if outliers:
        lines += [
            "",
            f"## Look at these: {len(outliers)}",
            "",
            "They are kept, but the face differs much from the other faces of that person.",
            "",
        ]
        lines += [f"- {name}" for name in outliers[:LISTED]]
    if dropped:
        lines += ["", f"## Dropped: {len(dropped)}", ""]
        lines += [f"- {drop.name}: {drop.reason}" for drop in dropped[:LISTED]]
        if len(dropped) > LISTED:
            lines += [f"- … and {len(dropped) - LISTED} more: see report.json"]
    return "\n".join(lines) + "\n"


def sample_evenly(values: Sequence) -> list:
    """At most SHOWN of the values, evenly spaced."""
    count = min(SHOWN, len(values))
    return [values[number * len(values) // count] for number in range(count)]


def contact_sheet(title: str, groups: list[tuple[str, list[Cell], str]]) -> "Image":
    """An RGB image with a grid of pictures for each group (heading, cells, colour of the captions)."""
    from PIL import Image, ImageDraw

    heading, text = font(22), font(12)
    line = round(text.size * 1.35)
    step = CELL + (1 + TEXT_LINES) * line + GAP
    rows = [-(-len(cells) // COLUMNS) for _, cells, _ in groups]
    width = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + 44 + sum(44 + count * step for count in rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), fit(draw, title, heading, width - 2 * MARGIN), INK, heading)
    y = MARGIN + 44
    for (name, cells, colour), count in zip(groups, rows):
        draw.text((MARGIN, y), name, FAINT, heading)
        for number, cell in enumerate(cells):
            at = (MARGIN + number % COLUMNS * (CELL + GAP), y + 40 + number // COLUMNS * step)
            _draw_cell(sheet, draw, cell, at, colour, text)
        y += 44 + count * step
    return sheet


def _draw_cell(sheet, draw, cell: Cell, at: tuple[int, int], colour: str, text) -> None:
    from PIL import Image

    try:
        sheet.paste(fitted(Image.fromarray(cell.item.read().pixels), CELL), at)
    except Unreadable:
        draw.rectangle((*at, at[0] + CELL - 1, at[1] + CELL - 1), outline=FAINT)
        draw.text((at[0] + 8, at[1] + CELL // 2 - 8), "unreadable", FAINT, text)
    lines = [cell.name, *wrap(draw, cell.caption, text, CELL, TEXT_LINES)]
    write(draw, (at[0], at[1] + CELL + 4), lines, text, CELL, (FAINT, colour))
