"""File names of all jobs from a template: valid on every system, inside the output folder, unique."""

import re
from typing import Any

from ....comfy_api.names import case_key, sanitise_filename, unique_name
from .rows import Row, Upload

TOKEN = re.compile(r"\{([^{}]*)\}")
RESERVED = ("sheets", "not-kept")  # names of folders that a batch makes
LONGEST = 60  # most bytes of one value in a name
NUMBER = 6  # bytes of LONGEST for the number of a file of the same name


def names(template: str, rows: list[Row], mistakes: list[str]) -> list[str]:
    """Relative paths without suffix, one per row. Mistakes are appended to `mistakes`; then the result is empty."""
    known = {name: None for row in rows for name in row}
    parts = template.split("/")
    if any(part.strip() in ("", ".", "..") for part in parts) or "\\" in template:
        mistakes.append(f"name: {template!r} leaves the output folder: use plain folder names, without .. and \\")
        return []
    for token in TOKEN.findall(template):
        if token != "job" and token not in known and token.removesuffix("#") not in known:
            offered = ", ".join(f"{{{name}}}" for name in ["job", *known])
            mistakes.append(f"name: there is no {{{token}}}: use {offered}")
            return []
    texts = {name: labels([row.get(name) for row in rows]) for name in known}
    numbers = {name: _numbers([row.get(name) for row in rows]) for name in known}
    width = len(str(len(rows)))

    def token_text(token: str, index: int) -> str:
        if token in known:
            return texts[token][index]
        return str(index + 1).zfill(width) if token == "job" else numbers[token[:-1]][index]

    made = ["/".join(_part(part, index, token_text) for part in parts) for index in range(len(rows))]
    return made if _all_different(made, mistakes) else []


def labels(values: list[Any]) -> list[str]:
    """A text for each value. A file gives its stem, with a number if another file or value has the same text."""
    different = {key_of(value): value for value in values}
    label_of = {
        key: "" if value is None else str(value) for key, value in different.items() if not isinstance(value, Upload)
    }
    taken = {case_key(text) for text in label_of.values()}
    for key, value in different.items():
        if isinstance(value, Upload):
            stem = _plain(value.path.stem)
            label_of[key] = unique_name(_plain(stem, LONGEST - NUMBER) if case_key(stem) in taken else stem, taken)
    return [label_of[key_of(value)] for value in values]


def key_of(value: Any) -> str:
    """Key that is equal for equal values of the same type: 1, 1.0, "1" and true differ."""
    return f"{type(value).__name__} {value}"


def _numbers(values: list[Any]) -> list[str]:
    order = {key: str(number) for number, key in enumerate(dict.fromkeys(map(key_of, values)), 1)}
    width = len(str(len(order)))
    return [order[key_of(value)].zfill(width) for value in values]


def _part(part: str, index: int, token_text) -> str:
    name = sanitise_filename(TOKEN.sub(lambda token: _plain(token_text(token[1], index)), part).replace("/", " "))
    return f"_{name}" if name.casefold() in RESERVED else name


def _plain(text: str, most: int = LONGEST) -> str:
    """The text without slashes and line breaks, of at most `most` bytes."""
    return re.sub(r"[/\\\s]+", " ", text).encode("utf-8", "replace")[:most].decode("utf-8", "ignore").strip()


def _all_different(made: list[str], mistakes: list[str]) -> bool:
    first: dict[str, int] = {}
    duplicates: dict[int, int] = {}
    for number, name in enumerate(made, 1):
        key = case_key(name)
        if first.setdefault(key, number) != number:
            duplicates.setdefault(number, first[key])
    for second, one in list(duplicates.items())[:1]:
        more = f", and {len(duplicates) - 1} more like others" if len(duplicates) > 1 else ""
        mistakes.append(f"name: jobs {one} and {second} would both be {made[one - 1]!r}{more}: add {{job}} to it")
    return not duplicates
