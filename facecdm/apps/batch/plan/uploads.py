"""Local files in a plan's values: read and checked, then uploaded under names derived from their content."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....comfy_api.names import sanitise_filename
from ....errors import BadFile
from ...references import reference
from .nodes import InputKey
from .plan import Plan
from .rows import Row, Upload
from .targets import Targets

UNREADABLE = " (unreadable)"  # after a file's name in the journal, in place of its digest


@dataclass(frozen=True)
class LocalFile:
    """
    path     local path
    digest   SHA-256 of its content
    name     requested name on the servers
    problem  why it cannot be used; then `digest` and `name` are empty
    """

    path: Path
    digest: str = ""
    name: str = ""
    problem: str = ""


def find_uploads(
    plan: Plan,
    rows: list[Row],
    targets: Targets,
    file_inputs: dict[InputKey, dict[str, Any]],
    recorded: Sequence[dict[str, Any]],
    mistakes: list[str],
) -> tuple[list[Row], dict[Path, LocalFile]]:
    """Replace local files by Uploads where the input takes files; return the rows and these files.

    file_inputs  inputs that take files → their options, with the server's files as "options"
    recorded     the rows in the journal; a file that is there may be gone
    """
    names = {name for name, keys in targets.items() if any(key in file_inputs for key in keys)}
    offered = {
        name: {choice for key in targets[name] for choice in _choices(file_inputs.get(key, {}))} for name in names
    }
    images = {name for name in names if any(file_inputs.get(key, {}).get("image_upload") for key in targets[name])}
    files: dict[Path, LocalFile] = {}
    problems: dict[str, None] = {}

    def converted(name: str, value: Any, known: Any) -> Any:
        if name in names and isinstance(value, str) and value:
            path = plan.at(value)
            if os.path.isfile(path):  # also False for a name that is too long
                value = Upload(path)
            elif isinstance(known, str) and known.startswith((f"{path.name} (SHA-256 ", path.name + UNREADABLE)):
                value = Upload(path)
                files.setdefault(path, LocalFile(path, problem=f"{path} is gone"))
            elif value in offered[name] or value == known or "/" not in value or value.endswith("]"):
                pass  # on the server; a batch of an earlier release may have begun with it
            elif os.path.isdir(path.parent):
                problems[f"{name}: there is no file {value!r}, but a folder {path.parent}"] = None
        if isinstance(value, Upload) and value.path not in files:
            try:
                files[value.path] = _read(plan.folders.readable(value.path), name in images)
            except ValueError as error:  # outside the folders
                problems[f"{name}: {value.path}: {error}"] = None
        return value

    known = itertools.chain(recorded, itertools.repeat({}))
    rows = [
        {name: converted(name, value, was.get(name)) for name, value in row.items()} for row, was in zip(rows, known)
    ]
    mistakes += problems
    return rows, files


def _choices(options: dict[str, Any]) -> list[str]:
    choices = options.get("options")
    return [choice for choice in choices if isinstance(choice, str)] if isinstance(choices, list) else []


def _read(path: Path, is_image: bool) -> LocalFile:
    try:
        data = path.read_bytes()
        if is_image:
            reference(path.name, data)
    except (BadFile, OSError) as error:
        return LocalFile(path, problem=f"{path}: {getattr(error, 'strerror', None) or error}")
    digest = hashlib.sha256(data).hexdigest()
    return LocalFile(path, digest, sanitise_filename(f"{path.stem[:60]}-{digest[:12]}{path.suffix}"))
