"""What was kept, what was dropped and why: for people (report.md, contact.jpg) and programs (report.json)."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .manifest import Entry
from .sources import Item

SHOWN = 24  # pictures of each kind on the contact sheet
LISTED = 200


@dataclass(frozen=True, eq=False)
class Dropped:
    name: str
    reason: str
    item: Item


def write_report(folder: Path, source: str, entries: list[Entry], dropped: list[Dropped], items: dict[str, Item],
                 total: int) -> None:
    """report.json, report.md and contact.jpg."""
    summary = summarise(entries, dropped, total)
    plain = {"source": source, **summary, "dropped": [{"name": drop.name, "reason": drop.reason} for drop in dropped]}
    _write(folder / "report.json", json.dumps(plain, ensure_ascii=False, indent=1))
    _write(folder / "report.md", describe(source, summary, dropped))


def summarise(entries: list[Entry], dropped: list[Dropped], total: int) -> dict:
    people = Counter(entry.person for entry in entries)
    return {"pictures": total, "kept": len(entries), "people": len(people),
            "people_with_one_photo": sum(count == 1 for count in people.values()),
            "captions": len({entry.caption for entry in entries}),
            "without_caption": sum(not entry.caption for entry in entries),
            "buckets": {f"{width}x{height}": count for (height, width), count
                        in sorted(Counter(entry.bucket for entry in entries).items())}}


def describe(source: str, summary: dict, dropped: list[Dropped]) -> str:
    lines = [f"# Data set: {source}", "",
             f"{summary['kept']} of {summary['pictures']} pictures kept, {summary['people']} people "
             f"({summary['people_with_one_photo']} with one photo only), {summary['captions']} different captions "
             f"({summary['without_caption']} pictures without).", ""]
    lines += [f"- bucket {name}: {count}" for name, count in summary["buckets"].items()]
    if dropped:
        lines += ["", f"## Dropped: {len(dropped)}", ""]
        lines += [f"- {drop.name}: {drop.reason}" for drop in dropped[:LISTED]]
        if len(dropped) > LISTED:
            lines += [f"- … and {len(dropped) - LISTED} more: see report.json"]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
