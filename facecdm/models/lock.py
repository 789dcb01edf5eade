"""A lock on a folder between processes. The system releases it when a process ends, in whatever way."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

NAME = "lock"
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Locked(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` while the block runs; then remove its file, and the folder if it is empty.

    A file system without locks is used without one. Raises Locked, and OSError if the lock's file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with path.open("ab") as file:
        _acquire(file.fileno())
        try:
            # The process before may have removed the file between `open` and `_acquire`: then this one locks nothing.
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                raise Locked
            yield
        finally:
            _release(path, file)


def _acquire(descriptor: int) -> None:
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in BUSY:
            raise Locked from error


def _release(path: Path, file) -> None:
    """Remove the file while it is locked where the system can, else after it is closed."""
    if not fcntl:
        file.close()
    with contextlib.suppress(OSError):  # another process waits for it, or the folder has unfinished downloads
        if fcntl is None or os.path.samestat(path.stat(), os.fstat(file.fileno())):
            path.unlink()
        path.parent.rmdir()
