"""Set-up steps. Each runs once, is recorded when done, and can be interrupted safely."""

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..files import REPOSITORY
from . import paths

_NETWORK_ERRORS = (
    "NewConnectionError",
    "Name or service not known",
    "getaddrinfo",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ConnectTimeout",
    "Read timed out",
    "ProxyError",
)
_DISK_ERRORS = ("No space left", "Errno 28", "not enough space")


class SetupError(Exception):
    """An error that the user can fix. The message says how."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One part of the set-up.

    name   name of its stamp file in .quickstart/done
    label  text in the terminal
    key    all inputs of the result; the step runs again when it changes
    do     function that runs the step
    proof  a path that exists once the step is done
    """

    name: str
    label: str
    key: tuple[str, ...]
    do: Callable[[], None]
    proof: Path = REPOSITORY

    @property
    def stamp(self) -> Path:
        return paths.HOME / "done" / self.name

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(self.key).encode()).hexdigest()

    def is_done(self) -> bool:
        stamped = self.stamp.is_file() and self.stamp.read_text(encoding="utf-8") == self.digest
        return stamped and self.proof.exists()

    def run(self) -> None:
        if self.is_done():
            return
        started = time.monotonic()
        print(f"  {self.label} …", flush=True)
        self.do()
        self.stamp.parent.mkdir(parents=True, exist_ok=True)
        draft = self.stamp.with_suffix(".new")
        draft.write_text(self.digest, encoding="utf-8")
        draft.replace(self.stamp)  # atomic write
        print(f"  {self.label}: done in {time.monotonic() - started:.0f} s", flush=True)


def run_all(steps: list[Step]) -> None:
    todo = sum(not step.is_done() for step in steps)
    if todo:
        print(f"Setting up in {paths.HOME} ({todo} of {len(steps)} steps; later runs skip this)", flush=True)
    for step in steps:
        step.run()


def pip(python: Path, verb: str, *arguments: str) -> None:
    run([str(python), "-m", "pip", verb, "--disable-pip-version-check", *arguments], f"pip {verb} failed")


def run(command: list[str], failure: str) -> None:
    """Run a command. The log gets all lines, the terminal shows the newest, and a SetupError holds the last ones."""
    paths.LOG.parent.mkdir(exist_ok=True)
    lines: list[str] = []
    with paths.LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            for line in process.stdout or ():
                log.write(line)
                lines.append(line.rstrip())
                _show(lines[-1])
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            _show("")
    if code:
        last = "\n".join(f"    {line}" for line in lines[-8:])
        raise SetupError(f"{failure}{reason(lines)}\n{last}\n  The whole log: {paths.LOG}")


def _show(line: str) -> None:
    """Replace the line in the terminal by the newest one. Do nothing without a terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 6
        print(f"\r\033[K{'    ' + line.strip()[:width] if line else ''}", end="", flush=True)


def reason(lines: list[str]) -> str:
    """A common cause of a pip failure, for the error message; empty if none matches."""
    text = "\n".join(lines[-60:])
    if any(sign in text for sign in _DISK_ERRORS):
        return ": the disk is full (about 8 GB are needed)"
    if any(sign in text for sign in _NETWORK_ERRORS):
        return ": no network, or the package index cannot be reached; try the same command again"
    if "No module named pip" in text:
        return ": this Python has no pip"
    return ""


def remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
