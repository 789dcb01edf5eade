"""Picture folders that a graph may name: only folders below one root."""

import os
from pathlib import Path, PurePosixPath

from ...errors import MissingModel, UnsafeName
from ...pictures import SUFFIXES
from .sources import UNREAD

DEPTH = 2  # levels of folders that are listed


def inside(root: Path, name: str) -> Path:
    """The folder `name` below `root`. Raises UnsafeName (it is not below `root`), MissingModel (no such folder)."""
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or ":" in name or "\0" in name or not relative.parts:
        raise UnsafeName(f"{name!r} cannot be the name of a folder: it would not lie in {root.name}.")
    if not os.path.isdir(root / relative):  # also for a name that is too long
        raise MissingModel(f"there is no folder {relative} in {root}: put pictures there, then refresh the list (R)")
    return root / relative


def picture_folders(root: Path) -> list[str]:
    """Folders below `root` that hold pictures, also in their sub-folders; sorted by name."""
    found = set()
    for folder, below, files in os.walk(root):
        parts = Path(folder).relative_to(root).parts
        if parts and any(file.lower().endswith(SUFFIXES + UNREAD) for file in files):
            found |= {"/".join(parts[:depth]) for depth in range(1, min(len(parts), DEPTH) + 1)}
        if len(parts) > DEPTH:
            below.clear()
    return sorted(found)
