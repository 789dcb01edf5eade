"""What was kept, what was dropped and why: for people (report.md, contact.jpg) and programs (report.json)."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...apps.sheet import AMBER, FAINT, GAP, INK, MARGIN, PAPER, fit, fitted, font, wrap, write
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
    """A picture of the contact sheet, or why it cannot be shown, with a name and a few words."""

    item: Item
    name: str
    words: str


def write_report(
    folder: Path,
    source: str,
    entries: list[Record],
    dropped: list[Dropped],
    items: dict[str, Item],
    total: int,
    doubtful: list[str],
) -> None:
    """report.json, report.md and contact.jpg; `items` by name, for the sheet; `doubtful`: names of pictures that look
    like other people than they are said to show."""
    summary = summarise(entries, dropped, total)
    plain = {
        "source": source,
        **summary,
        "doubtful": doubtful,
        "dropped": [{"name": drop.name, "reason": drop.reason} for drop in dropped],
    }
    _write(folder / "report.json", json.dumps(plain, ensure_ascii=False, indent=1).encode())
    _write(folder / "report.md", describe(source, summary, dropped, doubtful).encode())
    kept = [
        Cell(items[entry.name], f"{entry.person} · {entry.name}", entry.caption or "(no caption)")
        for entry in spread(entries)
    ]
    lost = [Cell(drop.item, drop.name, drop.reason) for drop in spread(dropped)]
    sheet = contact_sheet(source, [(f"Kept: {len(entries)}", kept, INK), (f"Dropped: {len(dropped)}", lost, AMBER)])
    partial = folder / ".contact.part"
    sheet.save(partial, "JPEG", quality=88)
    partial.replace(folder / "contact.jpg")


def summarise(entries: list[Record], dropped: list[Dropped], total: int) -> dict:
    people = Counter(entry.person for entry in entries)
    return {
        "pictures": total,
        "kept": len(entries),
        "people": len(people),
        "people_with_one_photo": sum(count == 1 for count in people.values()),
        "captions": len({entry.caption for entry in entries}),
        "without_caption": sum(not entry.caption for entry in entries),
        "buckets": {
            f"{width} × {height}": count
            for (height, width), count in sorted(Counter(entry.bucket for entry in entries).items())
        },
        "reasons": dict(Counter(kind(drop.reason) for drop in dropped).most_common()),
    }


def kind(reason: str) -> str:
    """The reason without what is particular to one picture."""
    if reason.startswith("the same picture"):
        return "the same picture as another"
    return reason.split(":")[0].split(" (")[0]


def describe(source: str, summary: dict, dropped: list[Dropped], doubtful: list[str]) -> str:
    lines = [
        f"# Data set: {source}",
        "",
        f"{summary['kept']} of {summary['pictures']} pictures kept, {summary['people']} people "
        f"({summary['people_with_one_photo']} with one photo only), {summary['captions']} different captions "
        f"({summary['without_caption']} pictures without).",
        "",
    ]
    lines += [f"- bucket {name}: {count}" for name, count in summary["buckets"].items()]
    if doubtful:
        lines += [
            "",
            f"## Look at these: {len(doubtful)}",
            "",
            "They are kept, but the face is hardly like the other faces of that person.",
            "",
        ]
        lines += [f"- {name}" for name in doubtful[:LISTED]]
    if dropped:
        lines += ["", f"## Dropped: {len(dropped)}", ""]
        lines += [f"- {drop.name}: {drop.reason}" for drop in dropped[:LISTED]]
        if len(dropped) > LISTED:
            lines += [f"- … and {len(dropped) - LISTED} more: see report.json"]
    return "\n".join(lines) + "\n"


def spread(things: list) -> list:
    """SHOWN of them at most, evenly taken."""
    return [things[number * len(things) // min(SHOWN, len(things))] for number in range(min(SHOWN, len(things)))]


def contact_sheet(title: str, groups: list[tuple[str, list[Cell], str]]) -> "Image":
    """RGB: for each (heading, cells, colour of the words) a grid of pictures."""
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
    lines = [cell.name, *wrap(draw, cell.words, text, CELL, TEXT_LINES)]
    write(draw, (at[0], at[1] + CELL + 4), lines, text, CELL, (FAINT, colour))


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    partial.replace(path)
