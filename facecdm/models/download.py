"""Download one model file: resume, verify, and never overwrite an existing file.

The Hugging Face hub's library states a file's address, size and hash, and honours HF_ENDPOINT (a mirror) and HF_TOKEN.
The bytes are received by http_file.py, because that library deletes a partial file when a download is interrupted.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import FaceCDMError, MissingPackage
from .http_file import BLOCK, TIMEOUT, DownloadFailed, NotReceived, Progress, check_space, receive
from .model_file import ModelFile

STAGING = ".facecdm-downloads"  # folder in models for unfinished downloads, which the next run resumes
LOCK = "lock"  # file in that folder
SIZES = 0.5, 2.0  # plausible sizes of a file without a hash, as multiples of the table's (of a pack: unpacked)
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # RuntimeError: encrypted


def target_of(file: ModelFile, models: Path) -> Path:
    """Target path of the file (for an archive: its folder). Raises FaceCDMError if it is outside `models`."""
    relative = PurePosixPath(file.folder) / file.name
    if relative.is_absolute() or ".." in relative.parts:
        raise FaceCDMError(f"{relative} leaves the models folder")
    return models / relative


def download(file: ModelFile, models: Path, progress: Progress | None = None) -> Path:
    """Download `file` into `models` unless it exists; return its path.

    Raises DownloadFailed: no connection, wrong size or hash, full disk, archive with unsafe names, another download
    into `models`.
    """
    target = target_of(file, models)
    if target.exists():
        return target
    try:
        with _locked_staging(models):
            staged = _fetch(file, models, progress)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.is_archive:
                _unpack(file, staged, target)
            else:
                _place(staged, target)
    except OSError as error:
        raise DownloadFailed(
            f"{file.name} could not be written into {target.parent}: {error.strerror or error}. {_remedy(error)}, "
            "and run the same command again: it resumes."
        ) from error
    return target


@contextlib.contextmanager
def _locked_staging(models: Path) -> Iterator[None]:
    """Lock the folder of unfinished downloads while the block runs; then remove it if it has none.

    A file system without locks is used without one. Raises DownloadFailed if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    folder = models / STAGING
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DownloadFailed(
            f"another process is downloading into {models}. Wait until it ends, and run the same command again."
        ) from error
    except (OSError, NotImplementedError):  # no locks here
        pass
    try:
        _remove_leftovers(folder)
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):  # Windows removes no open file, so not before the release
            if os.listdir(folder) in ([], [LOCK]):
                shutil.rmtree(folder)


def _remedy(error: OSError) -> str:
    if error.errno in DISK_FULL:
        return "Free some space"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Change the folder's rights"
    return "Check the folder and its disk"


def _fetch(file: ModelFile, models: Path, progress: Progress | None) -> Path:
    """The whole, verified file in the staging folder."""
    try:
        return (_from_link if file.link else _from_hub)(file, models / STAGING, progress)
    except NotReceived as error:
        raise _failed(file, models, error) from error


@dataclass(frozen=True)
class HubFile:
    """A file of the hub, as the hub states it.

    url      address of its bytes, often on another host
    headers  headers for that address; with the user's token only if it is on the hub itself
    size     bytes; 0: unknown
    etag     the hub's name of the content; of large files it is their SHA-256; "": unknown
    """

    url: str
    headers: dict[str, str]
    size: int
    etag: str

    @property
    def sha256(self) -> str:
        return self.etag if len(self.etag) == 64 else ""


def _from_hub(file: ModelFile, staging: Path, progress: Progress | None) -> Path:
    found = _find_on_hub(file)
    name = f"{file.repository}/{file.path}".replace("/", "--")
    part = staging / f"{name}.{hashlib.sha256(found.etag.encode()).hexdigest()[:16]}.part"
    for other in staging.glob(f"{name}.*.part"):
        if other != part or not found.etag:  # the content has changed, or may have
            other.unlink()
    total = receive(found.url, part, found.headers, found.size, progress=progress)
    _verify(file, part, total, found.sha256)
    return part


def _find_on_hub(file: ModelFile) -> HubFile:
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers
    except ImportError as error:
        raise MissingPackage("downloading needs huggingface_hub: pip install huggingface_hub") from error
    try:
        address = hf_hub_url(file.repository, file.path, endpoint=os.environ.get("HF_ENDPOINT"))
        stated = get_hf_file_metadata(address, timeout=TIMEOUT)
        headers = build_hf_headers()
    except Exception as error:  # the library raises the errors of several HTTP clients
        raise NotReceived(str(error) or type(error).__name__) from error
    url = urllib.parse.urljoin(address, stated.location or address)
    if _host(url) != _host(address):
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return HubFile(url, headers, stated.size or 0, stated.etag or "")


def _host(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _from_link(file: ModelFile, staging: Path, progress: Progress | None) -> Path:
    path = staging / file.url.rpartition("/")[2]
    if path.exists() and (not file.sha256 or _sha256(path) == file.sha256):
        return path  # an earlier run fetched it and could not write it into its folder
    part = path.with_name(path.name + ".part")
    total = receive(file.url, part, check_size=lambda size: _check_size(file, size), progress=progress)
    try:
        _check_size(file, part.stat().st_size)
    except NotReceived:
        part.unlink()
        raise
    _verify(file, part, total, file.sha256)
    part.replace(path)
    return path


def _check_size(file: ModelFile, size: int) -> None:
    """Raise NotReceived for an implausible size. A file with a hash is checked by that alone."""
    lowest, highest = (factor * file.megabytes * 1e6 for factor in SIZES)
    if not file.sha256 and not lowest <= size <= highest:
        raise NotReceived(f"the server sends {size:,} bytes, and about {file.size} are expected")


def _failed(file: ModelFile, models: Path, error: NotReceived) -> DownloadFailed:
    reason = " ".join(str(error).split())[:300]
    return DownloadFailed(
        f"{file.name} could not be fetched from {file.page}: {reason}. Run the same command again: it resumes. Behind "
        f"a firewall, {_way_around(file, models)}."
    )


def _way_around(file: ModelFile, models: Path) -> str:
    if not file.link:
        return "set HF_ENDPOINT to a mirror of the hub, or download the file in a browser"
    target = target_of(file, models)
    put = f"unpack it into {target}" if file.is_archive else f"save it as {target}"
    return f"set HTTPS_PROXY to your proxy, or download {file.link} in a browser and {put}"


def _verify(file: ModelFile, path: Path, size: int, sha256: str) -> None:
    """Compare the file with the stated size and hash. If they differ, remove it and raise DownloadFailed."""
    wrong = ""
    if size and path.stat().st_size != size:
        wrong = f"it has {path.stat().st_size:,} bytes, the server states {size:,}"
    elif sha256 and (found := _sha256(path)) != sha256:
        wrong = f"its SHA-256 is {found[:12]}…, the publisher states {sha256[:12]}…"
    if wrong:
        path.unlink()
        raise DownloadFailed(f"{file.name} arrived damaged and was removed: {wrong}. Run the same command again.")


def _sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _place(staged: Path, target: Path) -> None:
    """Move into place atomically, without replacing a file that another program has put there."""
    try:
        os.link(staged, target)
    except FileExistsError:
        pass
    except OSError:  # another file system, or one without hard links
        _copy(staged, target)
    staged.unlink()


def _copy(staged: Path, target: Path) -> None:
    """Copy to a name beside the target first, so that the target is whole at every moment."""
    beside = target.with_name(f".{target.name}.part")
    check_space(target.parent, staged.stat().st_size)
    try:
        shutil.copyfile(staged, beside)
        if not target.exists():
            beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _unpack(file: ModelFile, archive: Path, target: Path) -> None:
    """Unpack the archive into the folder `target`, all or nothing, without a single top-level folder.

    The draft is beside the target, because the staging folder may be on another disk.
    """
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    content = draft / "content"  # one level deeper than the .onnx files of a face pack, so it is not listed as one
    try:
        _extract(file, archive, content)
        inner = list(content.iterdir())
        content = inner[0] if len(inner) == 1 and inner[0].is_dir() else content
        if not target.exists():
            content.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    archive.unlink()


def _extract(file: ModelFile, archive: Path, folder: Path) -> None:
    """Raises DownloadFailed for an archive that is damaged or has unsafe names, and removes it."""
    try:
        with zipfile.ZipFile(archive) as source:
            for member in source.infolist():
                _check_member(file, member)
    except BAD_ZIP as error:
        archive.unlink()
        raise DownloadFailed(f"{file.name} is no zip archive ({error}) and was removed") from error
    except DownloadFailed:
        archive.unlink()
        raise
    try:
        with zipfile.ZipFile(archive) as source:
            check_space(folder.parent.parent, sum(member.file_size for member in source.infolist()))
            folder.mkdir(parents=True)
            source.extractall(folder)
    except BAD_ZIP as error:
        archive.unlink()
        raise DownloadFailed(f"the archive of {file.name} is damaged ({error}) and was removed") from error


def _check_member(file: ModelFile, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.filename or stat.S_ISLNK(member.external_attr >> 16):
        raise DownloadFailed(
            f"the archive of {file.name} holds {member.filename!r}, which leaves its folder; not unpacked"
        )


def _remove_leftovers(staging: Path) -> None:
    """Remove what older versions left: partial files of the hub's library, which it never resumes, in folders."""
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
