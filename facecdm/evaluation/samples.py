"""What is evaluated: one line for every generated picture."""

import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import BadFile

OPTIONAL = ("held_out", "prompt", "plain", "yaw", "strength")


@dataclass(frozen=True)
class Sample:
    """A generated `picture` of `person`, made by `condition` (a method, an adapter, a strength).

    `reference` is the photo that was given, `held_out` another photo of the same person that was not; `plain` is the
    picture of the same seed without identity; `yaw` the head's turn that was asked for, in degrees; `strength` a number
    for the curve. All paths are whole.
    """

    picture: Path
    person: str
    condition: str
    reference: Path
    held_out: Path | None = None
    prompt: str = ""
    plain: Path | None = None
    yaw: float | None = None
    strength: float | None = None


_PATHS = ("picture", "reference", "held_out", "plain")
_NUMBERS = ("yaw", "strength")


def read(table: Path) -> list[Sample]:
    """A CSV or JSONL file whose columns are Sample's; paths are relative to it. Raises BadFile, naming each mistake."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        rows = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if table.suffix == ".jsonl"
            else list(csv.DictReader(text.splitlines()))
        )
    except (OSError, ValueError) as error:
        raise BadFile(f"{table} cannot be read: {error}") from error
    mistakes, samples = [], []
    for number, row in enumerate(rows, 1):
        try:
            samples.append(_sample(row, table.parent))
        except ValueError as error:
            mistakes.append(f"row {number}: {error}")
    if mistakes or not samples:
        raise BadFile(f"{table}: " + ("; ".join(mistakes[:10]) or "there is no row in it"))
    return samples


def _sample(row: dict, here: Path) -> Sample:
    missing = [name for name in ("picture", "person", "condition", "reference") if not row.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing")
    values: dict = {}
    for name in (field.name for field in fields(Sample)):
        value = row.get(name)
        if value in ("", None):
            continue
        if name in _PATHS:
            value = (here / str(value)).resolve()
            if not value.is_file():
                raise ValueError(f"{name}: there is no file {value}")
        values[name] = float(value) if name in _NUMBERS else value if name in _PATHS else str(value)
    return Sample(**values)
