"""Download a URL into a file that the next attempt, in this run or a later one, resumes."""

import functools
import http.client
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from ..errors import FaceCDMError

BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without data
SPARE = 64 << 20  # bytes to keep free on the disk
ATTEMPTS = 5  # connections in one run; the second and later ones resume
PAUSE = 1.0  # seconds between two of them
PAGES = ("text/html", "application/xhtml+xml")
# Errors of the connection. OSError includes those of sockets and TLS, so no file is written where they are caught.
CONNECTION_ERRORS = (OSError, http.client.HTTPException, ValueError)  # ValueError: broken headers, broken chunks

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0: unknown)


class DownloadFailed(FaceCDMError):
    """A file could not be downloaded. A partial file is kept, and the next run resumes it."""


class NotReceived(Exception):
    """The server cannot be reached, refuses, or sends something else. The message is the reason."""


class Interrupted(NotReceived):
    """The connection ended before the file did."""


def receive(
    url: str,
    part: Path,
    headers: dict[str, str] | None = None,
    size: int = 0,
    check_size: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> int:
    """Append the missing bytes of `url` to `part`. Return its total size, or 0 if the server does not state it.

    headers     headers of the request; Authorization is not sent on to another address by a redirect
    size        the file's size in bytes, if it is known; 0: the server's answer states it
    check_size  is called with the total size before any byte is written, and raises for a wrong one

    Raises NotReceived (the connection or the answer), DownloadFailed (too little space), OSError (writing).
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = _bytes_of(part)
        if size and before == size:
            return size
        if size and before > size:
            part.unlink()
        try:
            return _receive_rest(url, part, headers or {}, size, check_size, progress)
        except Interrupted:
            if attempt == ATTEMPTS or _bytes_of(part) <= before:
                raise
        time.sleep(PAUSE)
    raise AssertionError("the last attempt returns or raises")


def check_space(folder: Path, wanted: int) -> None:
    """Raise DownloadFailed unless `folder` has room for `wanted` bytes."""
    free = shutil.disk_usage(folder).free
    if wanted + SPARE > free:
        raise DownloadFailed(f"{folder} has {free / 1e9:.1f} GB free, and {wanted / 1e9:.1f} GB are needed")


def _receive_rest(url, part: Path, headers: dict[str, str], size: int, check_size, progress) -> int:
    have = _bytes_of(part)
    answer = _ask(url, headers, have)
    if answer is None:  # 416: nothing is left to send
        return size or have
    with answer:
        have, total = _extent(answer, have)
        if size and total and total != size:
            raise NotReceived(f"the server sends {total:,} bytes instead of {size:,}")
        total = size or total
        if check_size and total:
            check_size(total)
        check_space(part.parent, max(total - have, 0))
        with part.open("ab" if have else "wb") as out:
            while block := _read(answer):
                out.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
    if have < total:
        raise Interrupted(f"the connection closed after {have:,} of {total:,} bytes")
    return total


def _ask(url: str, headers: dict[str, str], have: int) -> http.client.HTTPResponse | None:
    """Request the bytes from `have` on. None: there are none."""
    request = urllib.request.Request(url)
    for name, value in headers.items():
        # A redirect would carry other headers, such as a token, to another host.
        request.add_unredirected_header(name, value)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT, context=_certificates())  # noqa: S310 - the table's links
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            return None
        raise NotReceived(str(error)) from error
    except CONNECTION_ERRORS as error:
        raise NotReceived(_reason(getattr(error, "reason", error))) from error
    if answer.headers.get_content_type() in PAGES and "Content-Type" in answer.headers:
        answer.close()
        raise NotReceived("the server sent a web page instead of the file")
    return answer


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """The position at which the answer begins, and the file's total size (0: unknown)."""
    length = answer.headers.get("Content-Length") or ""
    first = 0
    if answer.status == 206:
        stated = re.match(r"bytes (\d+)-\d+/", answer.headers.get("Content-Range") or "")
        first = int(stated[1]) if stated else have
        if first != have:
            raise NotReceived(f"the server sends the bytes from {first:,} on instead of {have:,}")
    return first, first + int(length) if length.isdecimal() else 0


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except CONNECTION_ERRORS as error:
        raise Interrupted(f"the connection broke: {_reason(error)}") from error


@functools.cache
def _certificates() -> ssl.SSLContext:
    """The system's certificates and certifi's: Python of python.org for macOS has none of its own."""
    context = ssl.create_default_context()
    try:
        import certifi

        context.load_verify_locations(certifi.where())
    except (ImportError, OSError):
        pass
    return context


def _reason(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
