"""Read and write files with names from a graph: inside their folder, atomically, without overwriting."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import uuid4

from .errors import FaceCDMError, MissingModel, UnsafeName

PACKAGE = Path(__file__).resolve().parent  # this library
REPOSITORY = PACKAGE.parent  # the pack: workflows, docs, the quick start's folder
SUFFIX, PART = ".safetensors", ".part"
ADVICE = "Check the permissions of the folder and the free space."
# Device names on Windows, with any extension.
_RESERVED = {"con", "prn", "aux", "nul", *(port + digit for port in ("com", "lpt") for digit in "123456789¹²³")}


def is_reserved(name: str) -> bool:
    """Whether Windows reserves the name for a device."""
    return name.split(".")[0].rstrip().lower() in _RESERVED


def check_filename(name: str) -> str:
    """The name without suffix. Raises UnsafeName unless it is a plain file name on every system."""
    stem = name.strip().removesuffix(SUFFIX)
    plain = re.fullmatch(r"[\w][\w .,()+\-]{0,99}", stem) is not None and stem == stem.rstrip(" .")
    if not plain or len(stem.encode()) > 200 or is_reserved(stem):
        raise UnsafeName(
            f"{name[:100]!r} cannot be the name of a file. Use letters, digits, spaces and - _ . , ( ) +, "
            "begin with a letter or digit, and name no folder."
        )
    return stem


def write_named(data: bytes, folder: Path, name: str, overwrite: bool = False) -> Path:
    """Write folder/name.safetensors and return the path.

    Unless `overwrite`, an existing file is kept and "_2", "_3" … is appended. The write is atomic. Raises UnsafeName,
    FaceCDMError (the folder cannot be written).
    """
    stem = check_filename(name)
    with writing(f"{stem + SUFFIX} could not be written into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (stem + SUFFIX) if overwrite else _reserve(folder, stem)
        write_atomically(path, data, reserved=not overwrite)
    return path


@contextlib.contextmanager
def writing(problem: str, advice: str = ADVICE) -> Iterator[None]:
    """Turn an OSError of the block, such as a full disk, into a FaceCDMError: problem, reason, advice."""
    try:
        yield
    except OSError as error:
        raise FaceCDMError(f"{problem}: {error}. {advice}") from error


def file_fingerprint(path: Path | None) -> str:
    """A text that changes with the file, such as for fingerprint_inputs; "missing" without a file.

    It contains no path, because ComfyUI writes fingerprints into every picture.
    """
    if path is None or not path.is_file():
        return "missing"
    return f"{path.stat().st_mtime_ns} {path.stat().st_size}"


def write_file(path: Path, data: bytes, advice: str = ADVICE) -> None:
    """Write a file atomically, and its folder first. Raises FaceCDMError, which ends with `advice`."""
    with writing(f"{path} could not be written", advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)


def find_named(folders: list[Path], name: str, hint: str, suffixes: tuple[str, ...] = (SUFFIX,)) -> Path:
    """The named file from the first folder that has it. The name may include a subfolder, as in ComfyUI's lists.

    The first of `suffixes` is added to a name without one. `hint` ends the message of MissingModel. Raises UnsafeName,
    MissingModel.
    """
    name = name if name.lower().endswith(suffixes) else name + suffixes[0]
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or ":" in name or "\0" in name:
        raise UnsafeName(f"{name[:100]!r} cannot be the name of a file: it leaves its folder.")
    for folder in folders:
        if os.path.isfile(folder / relative):  # also False for a name that is too long
            return folder / relative
    searched = ", ".join(str(folder) for folder in folders)
    raise MissingModel(f"There is no file {str(relative)[:300]} (searched: {searched}). {hint}")


def _reserve(folder: Path, stem: str) -> Path:
    """Reserve the first free name with an empty file."""
    for count in range(1, 100_000):
        path = folder / f"{stem}{'' if count == 1 else f'_{count}'}{SUFFIX}"
        try:
            path.open("xb").close()
            return path
        except FileExistsError:
            continue
    raise FaceCDMError(f"{folder} has too many files named {stem}: choose another name.")


def write_atomically(path: Path, data: bytes | Callable[[BinaryIO], object], reserved: bool = False) -> None:
    """Write a file completely or not at all, even if the power fails. Raises OSError.

    data      the content, or a function that writes it into the open file
    reserved  `path` is an empty placeholder file, which is removed if writing fails
    """
    temporary = path.with_name(f".{uuid4().hex}{PART}")
    try:
        with temporary.open("xb") as file:
            data(file) if callable(data) else file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if reserved:
            path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a new name in `folder` to the disk. Windows does so itself."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
