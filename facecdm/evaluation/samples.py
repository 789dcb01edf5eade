"""The table of an evaluation: one row for each generated picture."""

import csv
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path

from ..documents import parse_json, read_text
from ..errors import BadFile
from . import attributes


@dataclass(frozen=True)
class Sample:
    """A generated picture. Paths are absolute.

    picture    the picture
    person     name of the person
    condition  name of a method, an adapter, a strength …
    reference  the photo that was used
    held_out   a photo of the same person that was not used
    prompt     prompt of the picture
    plain      the picture with the same seed and no adapter
    yaw        intended rotation of the head in degrees
    strength   strength of the condition, for the plot
    attributes what the prompt asks for, and what the reference shows (see attributes.parse)
    line       conditions with a strength and the same `line` are one line of the plot
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
    attributes: str = ""
    line: str = ""


_PATHS = ("picture", "reference", "held_out", "plain")
_NUMBERS = ("yaw", "strength")


def read(table: Path, notes: list[str] | None = None) -> list[Sample]:
    """Read a CSV or JSONL file with the fields of Sample; paths are relative to it. Raises BadFile.

    Columns that are none of these fields are added to `notes`.
    """
    try:
        text = read_text(table)
        rows = (
            [parse_json(line) for line in text.split("\n") if line.strip()]
            if table.suffix == ".jsonl"
            else list(csv.DictReader(io.StringIO(text, newline="")))
        )
    except (OSError, ValueError, csv.Error) as error:
        raise BadFile(f"{table} cannot be read: {error}") from error
    mistakes, samples = [], []
    for number, row in enumerate(rows, 1):
        try:
            samples.append(_sample(row, table.parent))
        except (OSError, ValueError) as error:
            mistakes.append(f"row {number}: {error}")
    mistakes += _ambiguous(samples)
    if notes is not None and (unknown := _unknown_columns(rows)):
        notes.append(f"{table.name}: columns without effect: {', '.join(unknown)}")
    if mistakes or not samples:
        raise BadFile(f"{table}: " + ("; ".join(mistakes[:10]) or "it has no rows"))
    return samples


def _ambiguous(samples: list[Sample]) -> list[str]:
    """The conditions with more than one strength or line."""
    found: dict[tuple[str, str], set] = {}
    for sample in samples:
        for name in ("strength", "line"):
            found.setdefault((sample.condition, name), set()).add(getattr(sample, name))
    return [
        f"condition {condition[:60]!r} has several values of {name}: give each its own condition"
        for (condition, name), values in found.items()
        if len(values) > 1
    ]


def _unknown_columns(rows: list) -> list[str]:
    known = {field.name for field in fields(Sample)}
    names = dict.fromkeys(str(name)[:60] for row in rows if isinstance(row, dict) for name in row)
    return [name for name in names if name not in known]


def _sample(row: object, here: Path) -> Sample:
    if not isinstance(row, dict):
        raise ValueError("it is no object with the fields of a sample")
    missing = [name for name in ("picture", "person", "condition", "reference") if row.get(name) in ("", None)]
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
        if name == "attributes":
            attributes.parse(str(value))
        values[name] = _number(name, value) if name in _NUMBERS else value if name in _PATHS else str(value)
    return Sample(**values)


def _number(name: str, value: object) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a number; it is {str(value)[:60]!r}")
    return number
