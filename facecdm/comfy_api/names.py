"""Sanitise file names and texts from a server, a plan or a prompt."""

import re
import unicodedata
from pathlib import Path

from ..errors import UnsafeName
from ..files import is_reserved


def sanitise_filename(name: str, limit: int = 120) -> str:
    """A similar file name of at most `limit` bytes that is valid on Linux, Windows and macOS.

    Folders are removed. A shortened name keeps its extension.
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


def unique_name(name: str, taken: set[str]) -> str:
    """Return the name, with -2, -3 … at its end if `taken` has it, and add its `case_key` to `taken`."""
    found, number = name, 1
    while case_key(found) in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(case_key(found))
    return found


def case_key(name: str) -> str:
    """Key that is equal for names of one file on Windows or macOS."""
    return unicodedata.normalize("NFC", name).casefold()


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, resolved. Raises UnsafeName if it is outside `folder`."""
    folder = folder.resolve()
    path = (folder / name).resolve()
    if path == folder or folder not in path.parents:
        raise UnsafeName(f"{name!r} would be written outside {folder}: choose a plain name")
    return path


def shorten(text: str, limit: int) -> str:
    """The text, cut to `limit` characters with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def one_line(text: str, limit: int = 1000) -> str:
    """The text as one line without control characters, safe for a terminal."""
    return shorten(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text[: 4 * limit]), limit)
