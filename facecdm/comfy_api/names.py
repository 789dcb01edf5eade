"""Names that come from a server, a plan or a prompt, made safe to write to disk."""

import re
from pathlib import Path

from ..errors import UnsafeName
from ..files import is_reserved


def sanitise_filename(name: str, limit: int = 120) -> str:
    """A file name with the meaning of `name` that is valid on Linux, Windows and macOS.

    Folders are cut off; the extension is kept where the name must be shortened.
    """
    name = re.split(r"[/\\]", str(name))[-1]
    name = re.sub(r'[\x00-\x1f\x7f<>:"|?*\ud800-\udfff]', "_", name).strip(" .")
    if not name:
        return "unnamed"
    if is_reserved(name):
        name = f"_{name}"
    if len(name.encode()) > limit:
        stem, dot, ext = name.rpartition(".")
        tail = dot + ext if stem and len(ext) <= 10 else ""
        head = name[: len(name) - len(tail)].encode()[: limit - len(tail.encode())]
        name = head.decode(errors="ignore").rstrip(" .") + tail
    return name


def inside(folder: Path, name: str) -> Path:
    """`folder / name` where that stays in `folder`; raises UnsafeName where it leaves it."""
    folder = folder.resolve()
    path = (folder / name).resolve()
    if path == folder or folder not in path.parents:
        raise UnsafeName(f"{name!r} would be written outside {folder}: choose a plain name")
    return path
