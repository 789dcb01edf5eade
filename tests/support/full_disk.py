"""A disk that is full from the n-th write on: every Python file, new folder and rename, and safetensors' files.

Counts what a program asks of the disk: the writes of its buffers, os.replace, os.mkdir, os.link and the like. Of the
writes to one file, the first, second, fourth, eighth … are counted. Files are real; only the n-th call and all later
ones meet ENOSPC.
"""

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

NAMES = ("replace", "rename", "mkdir", "link", "symlink", "write", "truncate", "ftruncate")


class Disk:
    """`asked` counts the writes below `folder`; from number `full_from` on (1 is the first; 0: never) each fails."""

    def __init__(self, folder: Path, full_from: int = 0):
        self.folder, self.full_from, self.asked = str(folder), full_from, 0

    def ask(self) -> None:
        self.asked += 1
        if self.full_from and self.asked >= self.full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def holds(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self.folder)


@contextlib.contextmanager
def disk(folder: Path, full_from: int = 0) -> Iterator[Disk]:
    """Count the writes below `folder` while the block runs, and fail from number `full_from` on."""
    import safetensors.torch
    from safetensors import SafetensorError

    found = Disk(folder, full_from)
    before = {name: getattr(os, name) for name in NAMES if hasattr(os, name)}
    opened, saved = io.open, safetensors.torch.save_file

    class Raw(io.FileIO):
        writes = 0

        def write(self, data) -> int:
            self.writes += 1
            if not self.writes & (self.writes - 1):
                found.ask()
            return super().write(data)

    def open_counted(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not set(mode) & set("wxa+") or not found.holds(file):
            return opened(file, mode, buffering, encoding, errors, newline, closefd, opener)
        found.ask()  # the name of a new file needs room too
        raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    def counted(name: str):
        def call(*arguments, **more):
            if name in ("write", "ftruncate") or any(found.holds(path) for path in arguments):
                found.ask()
            return before[name](*arguments, **more)

        return call

    def save_file(tensors, filename, metadata=None) -> None:
        try:
            found.ask()
        except OSError as error:  # as the package itself reports it
            raise SafetensorError(f"Error while serializing: I/O error: {error.strerror} (os error 28)") from None
        saved(tensors, filename, metadata)

    with contextlib.ExitStack() as undo:
        for owner, name, new, old in [
            *((os, name, counted(name), old) for name, old in before.items()),
            *((owner, "open", open_counted, opened) for owner in (io, builtins)),
            (safetensors.torch, "save_file", save_file, saved),
        ]:
            undo.callback(setattr, owner, name, old)
            setattr(owner, name, new)
        yield found


def every_write(work, folder: Path, typed: type[Exception]) -> Iterator[tuple[int, Path, Exception | None]]:
    """Run `work(out)` with the disk full from its first write on, from the second …, until it succeeds.

    Yields (n, the folder that was written to, the typed error). Any other exception passes through.
    """
    for number in range(1, 1000):
        out, error = folder / f"full-from-{number}", None
        with disk(folder, number) as found:
            try:
                work(out)
            except typed as caught:
                error = caught
        if found.asked < number:
            return
        yield number, out, error
    raise AssertionError("it writes without end")
