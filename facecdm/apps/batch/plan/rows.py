"""Rows of a plan: its lists, ranges and files, zipped within a group and multiplied across groups."""

import csv
import io
import itertools
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ....documents import parse_json, read_text
from ....errors import BadFile
from .folders import Folders

MOST_JOBS = 100_000
ROW_FILES = (".csv", ".jsonl")
Row = dict[str, Any]


@dataclass(frozen=True)
class Upload:
    """A local file to upload to the servers."""

    path: Path


def expand(groups: list, folders: Folders, mistakes: list[str]) -> list[Row]:
    """All rows of the product. Mistakes are appended to `mistakes`."""
    tables = [_rows(group, folders, f"jobs, group {number}", mistakes) for number, group in enumerate(groups, 1)]
    groups_of: dict[str, int] = {}
    for number, table in enumerate(tables, 1):
        for name in {name: None for row in table for name in row}:
            if name in groups_of:
                mistakes.append(f"jobs: {name!r} is in group {groups_of[name]} and in group {number}")
            groups_of[name] = number
    total = math.prod(map(len, tables))
    if total > MOST_JOBS:
        mistakes.append(f"jobs: that makes {total} jobs; at most {MOST_JOBS} go into one plan")
        return []
    return [{name: value for row in rows for name, value in row.items()} for rows in itertools.product(*tables)]


def _rows(group: Any, folders: Folders, label: str, mistakes: list[str]) -> list[Row]:
    if isinstance(group, str):
        return _table(folders, folders.at(group), label, mistakes)
    if isinstance(group, list):
        if not group:
            mistakes.append(f"{label}: it is empty")
        return group
    lists = {str(name): _values(spec, folders, f"{label}, {name!r}", mistakes) for name, spec in group.items()}
    if not lists:
        mistakes.append(f"{label}: it is empty")
    length = max(map(len, lists.values()), default=0)
    for name, values in lists.items():
        if len(values) not in (1, length):
            others = ", ".join(f"{other!r} {len(its)}" for other, its in lists.items() if other != name)
            mistakes.append(
                f"{label}: lists in one group go together, but {name!r} has {len(values)} values and {others}; "
                "put lists that multiply into groups of their own"
            )
            return []
    return [
        {name: values[index if len(values) > 1 else 0] for name, values in lists.items()} for index in range(length)
    ]


def _values(spec: Any, folders: Folders, label: str, mistakes: list[str]) -> list:
    """The values of one name: a list, one value, {from, to | count, step}, {files}, {lines}."""
    try:
        if isinstance(spec, list):
            values = spec
        elif not isinstance(spec, dict):
            values = [spec]
        elif set(spec) <= {"from", "to", "count", "step"} and "from" in spec and len({"to", "count"} & set(spec)) == 1:
            values = _range(spec)
        elif set(spec) == {"files"}:
            values = _files(spec["files"], folders)
        elif set(spec) == {"lines"}:
            text = read_text(folders.readable(folders.at(spec["lines"])))
            values = [line.strip() for line in text.split("\n") if line.strip()]
        else:
            raise ValueError(
                f"{spec} is none of: a list, {{from, to, step}}, {{from, count, step}}, {{files}}, {{lines}}"
            )
    except (BadFile, ValueError, TypeError, ArithmeticError) as error:
        mistakes.append(f"{label}: {error}")
    except OSError as error:
        mistakes.append(f"{label}: cannot read {error.filename}: {error.strerror}")
    else:
        if not values:
            mistakes.append(f"{label}: there is no value in it")
        return values
    return []


def _range(spec: dict[str, Any]) -> list:
    """Whole numbers, or decimal fractions without binary rounding; `to` is included."""
    for key, value in spec.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}, not a number")
    start, step = (Decimal(str(spec.get(key, default))) for key, default in (("from", 0), ("step", 1)))
    if step == 0:
        raise ValueError("step is 0")
    if "count" in spec:
        if not isinstance(spec["count"], int):
            raise ValueError(f"count is {spec['count']!r}, not a whole number")
        count = spec["count"]
    else:
        count = max(0, math.floor((Decimal(str(spec["to"])) - start) / step) + 1)
    if count > MOST_JOBS:
        raise ValueError(f"that makes {count} values; at most {MOST_JOBS} go into one plan")
    whole = all(isinstance(spec.get(key, 1), int) for key in ("from", "step"))
    return [int(value) if whole else float(value) for value in (start + step * index for index in range(count))]


def _files(patterns: str | list[str], folders: Folders) -> list[Upload]:
    """Files by name or pattern. Files that match a pattern are sorted by name. Raises ValueError."""
    found: list[Upload] = []
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        if not isinstance(pattern, str):
            raise ValueError(f"files is a pattern or a list of them, not {pattern!r}")
        paths = folders.matches(pattern)
        if not paths:
            raise ValueError(f"no file matches {folders.at(pattern)}")
        found += [Upload(folders.readable(path)) for path in paths]
    return found


def _table(folders: Folders, path: Path, label: str, mistakes: list[str]) -> list[Row]:
    """The rows of a CSV file with a header, or of a JSONL file with one object per line."""
    try:
        text = read_text(folders.readable(path))
        reader = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower())
        rows = reader(text) if reader else None
    except OSError as error:
        mistakes.append(f"{label}: cannot read {path}: {error.strerror}")
    except BadFile as error:
        mistakes.append(f"{label}: {error}")
    except (ValueError, csv.Error) as error:
        mistakes.append(f"{label}: {path.name}: {error}")
    else:
        if rows:
            return rows
        mistakes.append(f"{label}: {path.name} " + ("has no rows" if rows == [] else "is neither .csv nor .jsonl"))
    return []


def _csv(text: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    names = reader.fieldnames or []
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("every column needs a name of its own")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} and the heading have different numbers of cells")
        rows.append(row)
    return rows


def _jsonl(text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        rows.append(row)
    return rows
