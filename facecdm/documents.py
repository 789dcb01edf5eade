"""Untrusted text, JSON and YAML: UTF-8, of bounded size and depth, without aliases. Mistakes raise BadFile."""

import json
import re
from pathlib import Path
from typing import Any

from .errors import BadFile

LARGEST, DEEPEST = 8 << 20, 60  # bytes of a YAML file; depth of nested lists and mappings
NUMBER = re.compile(r"[-+]?(0[xb])?[0-9a-fA-F_:]{1000,}")  # which Python may refuse to write in a message


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises BadFile, OSError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises BadFile, OSError."""
    import yaml

    if path.stat().st_size > LARGEST:
        raise BadFile(f"{path} has more than {LARGEST >> 20} MiB: put long lists into files of their own")
    text, depth = read_text(path), 0
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, loader):
            line = f"{path}, line {event.start_mark.line + 1}"
            if isinstance(event, yaml.ScalarEvent) and NUMBER.fullmatch(event.value):
                raise BadFile(f"{line}: a number of {len(event.value):,} digits")
            if isinstance(event, yaml.AliasEvent):
                raise BadFile(f"{line}: aliases are refused; repeat what *{event.anchor} stands for")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise BadFile(f"{line}: nested more than {DEEPEST} levels deep")
        return yaml.load(text, loader)  # noqa: S506 - a safe loader
    # Tags raise many types: `!!int ''` an IndexError.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise BadFile(f"{path} is not YAML: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError, also for JSON that is nested too deeply."""
    try:
        value = json.loads(text)
        deep = is_deep(value)
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and mappings are nested deeper than DEEPEST. True for a value that contains itself."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [inner for item in level if isinstance(item, dict | list) for inner in _inner(item)]
        if not level:
            return False
    return True


def _inner(item: dict | list) -> Any:
    return item.values() if isinstance(item, dict) else item
