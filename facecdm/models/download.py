"""Download one model file: resume, verify, and never overwrite an existing file.

Downloads from the Hugging Face hub use its library, which honours HF_ENDPOINT (a mirror) and HF_TOKEN.
"""

import hashlib
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import FaceCDMError, MissingPackage
from .model_file import ModelFile

STAGING = ".facecdm-downloads"  # folder in models for unfinished downloads, which the next run resumes
BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without data
SPARE = 64 << 20  # bytes to keep free on the disk

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


class DownloadFailed(FaceCDMError):
    """A file could not be downloaded. The partial file is kept, and the next run resumes it."""


def target_of(file: ModelFile, models: Path) -> Path:
    """Target path of the file (for an archive: its folder). Raises FaceCDMError if it is outside `models`."""
    relative = PurePosixPath(file.folder) / file.name
    if relative.is_absolute() or ".." in relative.parts:
        raise FaceCDMError(f"{relative} leaves the models folder")
    return models / relative


def download(file: ModelFile, models: Path, progress: Progress | None = None) -> Path:
    """Download `file` into `models` unless it exists; return its path.

    Raises DownloadFailed: no connection, wrong size or hash, full disk, archive with unsafe names.
    """
    target = target_of(file, models)
    if target.exists():
        return target
    staging = models / STAGING
    try:
        staging.mkdir(parents=True, exist_ok=True)
        staged = _from_link(file, staging, progress) if file.link else _from_hub(file, staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.is_archive:
            _unpack(file, staged, target)
        else:
            _place(staged, target)
        _clear(staging)
    except OSError as error:
        raise DownloadFailed(
            f"{file.name} could not be written into {target.parent}: {error.strerror or error}. Free some space or "
            "change the folder's rights, and run the same command again: it resumes."
        ) from error
    return target


def _from_hub(file: ModelFile, staging: Path) -> Path:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise MissingPackage("downloading needs huggingface_hub: pip install huggingface_hub") from error
    endpoint = os.environ.get("HF_ENDPOINT")
    folder = staging / file.repository.replace("/", "--")
    try:
        stated = get_hf_file_metadata(hf_hub_url(file.repository, file.path, endpoint=endpoint), timeout=TIMEOUT)
        _check_space(staging, (stated.size or 0) - _staged_bytes(folder))
        path = Path(hf_hub_download(file.repository, file.path, local_dir=folder, endpoint=endpoint))
    except OSError as error:
        if error.errno is not None:  # a disk error; the hub library's connection errors have no errno
            raise
        raise _failed(file, error) from error
    except FaceCDMError:
        raise
    except Exception as error:  # the library raises the errors of several HTTP clients
        raise _failed(file, error) from error
    _verify(file, path, stated.size or 0, stated.etag if len(stated.etag or "") == 64 else "")
    return path


def _from_link(file: ModelFile, staging: Path, progress: Progress | None) -> Path:
    path = staging / file.url.rpartition("/")[2]
    part = path.with_name(path.name + ".part")
    try:
        total = _stream(file.url, part, staging, progress)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _failed(file, getattr(error, "reason", error)) from error
    _verify(file, part, total, file.sha256)
    part.replace(path)
    return path


def _stream(url: str, part: Path, staging: Path, progress: Progress | None) -> int:
    """Append the missing bytes to `part`; return the total size, or 0 if the server does not state it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - only links of the catalogue
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send
            return have
        raise
    with answer:
        if answer.status != 206:
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        _check_space(staging, length)
        with part.open("ab" if have else "wb") as out:
            while block := answer.read(BLOCK):
                out.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    if total and have < total:
        raise ConnectionError(f"the connection closed after {have:,} of {total:,} bytes")
    return total


def _failed(file: ModelFile, error: object) -> DownloadFailed:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DownloadFailed(
        f"{file.name} could not be fetched from {file.page}: {reason}. Run the same command again: it resumes. Behind "
        "a firewall, set HF_ENDPOINT to a mirror of the hub, or download the file in a browser."
    )


def _verify(file: ModelFile, path: Path, size: int, sha256: str) -> None:
    """Compare the file with the stated size and hash. If they differ, remove it and raise DownloadFailed."""
    wrong = ""
    if size and path.stat().st_size != size:
        wrong = f"it has {path.stat().st_size:,} bytes, the server states {size:,}"
    elif sha256:
        with path.open("rb") as source:
            found = (
                hashlib.file_digest(source, "sha256").hexdigest()
                if hasattr(hashlib, "file_digest")
                else _digest(source)
            )
        if found != sha256:
            wrong = f"its SHA-256 is {found[:12]}…, the publisher states {sha256[:12]}…"
    if wrong:
        path.unlink()
        raise DownloadFailed(f"{file.name} arrived damaged and was removed: {wrong}. Run the same command again.")


def _digest(source) -> str:
    """SHA-256 of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := source.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _check_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + SPARE > free:
        raise DownloadFailed(f"{folder} has {free / 1e9:.1f} GB free, and {wanted / 1e9:.1f} GB are needed")


def _staged_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _place(staged: Path, target: Path) -> None:
    """Move into place atomically, without replacing a file that another program has put there."""
    try:
        os.link(staged, target)
    except FileExistsError:
        pass
    except OSError:  # another file system, or one without hard links
        beside = target.with_name(f".{target.name}.part")
        shutil.copyfile(staged, beside)
        if target.exists():
            beside.unlink()
        else:
            beside.replace(target)
    staged.unlink()


def _unpack(file: ModelFile, archive: Path, target: Path) -> None:
    """Unpack the archive into the folder `target`, all or nothing, without a single top-level folder."""
    draft = archive.with_suffix(".unpacked")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as source:
            for member in source.infolist():
                _check_member(file, member)
            _check_space(archive.parent, sum(member.file_size for member in source.infolist()))
            source.extractall(draft)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise DownloadFailed(f"{file.name} is no zip archive ({error}) and was removed") from error
    inner = list(draft.iterdir())
    content = inner[0] if len(inner) == 1 and inner[0].is_dir() else draft
    content.replace(target)
    shutil.rmtree(draft, ignore_errors=True)
    archive.unlink()


def _check_member(file: ModelFile, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
        raise DownloadFailed(
            f"the archive of {file.name} holds {member.filename!r}, which leaves its folder; not unpacked"
        )


def _clear(staging: Path) -> None:
    """Remove the staging folder if it holds no unfinished download."""
    for folder in sorted((path for path in staging.rglob("*") if path.is_dir()), reverse=True):
        if folder.name == "huggingface" or not any(folder.iterdir()):
            unfinished = any(path.suffix == ".incomplete" for path in folder.rglob("*"))
            if not unfinished:
                shutil.rmtree(folder, ignore_errors=True)
    if not any(staging.iterdir()):
        staging.rmdir()
