"""Local files in a plan's values: read and checked, then uploaded under names derived from their content."""

import hashlib
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


@dataclass(frozen=True)
class LocalFile:
    """
    path    local path
    digest  SHA-256 of its content
    name    requested name on the servers
    """

    path: Path
    digest: str
    name: str


def find_uploads(
    plan: Plan, rows: list[Row], targets: Targets, file_inputs: dict[InputKey, dict[str, Any]], mistakes: list[str]
) -> tuple[list[Row], dict[Path, LocalFile]]:
    """Replace local files by Uploads where the input takes files; return the rows and these files.

    file_inputs  inputs that take files → their options
    """
    names = {name for name, keys in targets.items() if any(key in file_inputs for key in keys)}
    images = {name for name in names if any(file_inputs.get(key, {}).get("image_upload") for key in targets[name])}
    files: dict[Path, LocalFile] = {}
    problems: dict[str, None] = {}

    def converted(name: str, value: Any) -> Any:
        if name in names and isinstance(value, str) and value and plan.at(value).is_file():
            value = Upload(plan.at(value))
        if isinstance(value, Upload) and value.path not in files:
            try:
                files[value.path] = _read(plan.folders.readable(value.path), name in images)
            except (BadFile, ValueError, OSError) as error:
                problems[f"{name}: {value.path}: {getattr(error, 'strerror', None) or error}"] = None
        return value

    rows = [{name: converted(name, value) for name, value in row.items()} for row in rows]
    mistakes += problems
    return rows, files


def _read(path: Path, is_image: bool) -> LocalFile:
    data = path.read_bytes()
    if is_image:
        reference(path.name, data)
    digest = hashlib.sha256(data).hexdigest()
    return LocalFile(path, digest, sanitise_filename(f"{path.stem[:60]}-{digest[:12]}{path.suffix}"))
