"""A ComfyUI process on this machine: start, wait until it answers, stop."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from pathlib import Path

from ..comfyui_folders import check_comfyui
from ..errors import FaceCDMError
from ..files import writing
from .errors import PortTaken, ServerDied, ServerUnreachable

BASE_FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
COPY_MARK = ".made-by-facecdm-quickstart"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def port_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a program listens on this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def has_accelerator() -> bool:
    """Whether torch finds a device other than the CPU that ComfyUI can use."""
    import torch

    devices = (torch.cuda, getattr(torch, "xpu", None), torch.backends.mps)
    return any(device is not None and device.is_available() for device in devices)


def link_pack(pack: Path, base: Path, name: str = "facecdm") -> Path:
    """Link FaceCDM into the base directory's custom_nodes (on Windows by a junction), or copy it.

    Replaces only links, and copies made by this function. Raises FaceCDMError if another copy of FaceCDM exists.
    """
    home = base / "custom_nodes"
    home.mkdir(parents=True, exist_ok=True)
    for entry in home.iterdir():
        if entry.resolve() == pack.resolve():
            return entry
    target = home / name
    if target.is_symlink():
        target.unlink()
    elif (target / COPY_MARK).exists():
        shutil.rmtree(target)
    elif target.exists():
        try:
            target.rmdir()  # a stale junction, or an empty folder
        except OSError as error:
            raise FaceCDMError(f"{target} is another copy of the pack: move it away first") from error
    try:
        if os.name == "nt":
            import _winapi

            _winapi.CreateJunction(str(pack), str(target))
        else:
            target.symlink_to(pack.resolve(), target_is_directory=True)
    except OSError:
        hidden = shutil.ignore_patterns(".*", "__pycache__", "output", "runs", "tests")
        shutil.copytree(pack, target, ignore=hidden)
        (target / COPY_MARK).touch()
    return target


# Waits until the process that started it has ended for any reason, then stops the server.
GUARD = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGTERM)"


class LocalServer:
    """A context manager around `python main.py …`.

    comfyui      folder with main.py
    base         base directory: models, input, output, custom_nodes …; missing folders are created
    python       interpreter that has ComfyUI's requirements
    port         port; None: any free one
    cpu          start with --cpu
    arguments    more arguments for main.py
    environment  more environment variables
    log          log file; default: server.log in base
    guarded      whether the server stops when this process ends, even if it is killed
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        *,
        python: str | Path = sys.executable,
        port: int | None = None,
        cpu: bool = True,
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        log: Path | None = None,
        guarded: bool = False,
    ):
        self.comfyui, self.base, self.python = Path(comfyui), Path(base).resolve(), str(python)
        self.wanted_port, self.cpu, self.arguments = port, cpu, arguments
        self.environment = environment or {}
        self.port = 0
        self.process: subprocess.Popen | None = None
        self.log = log or self.base / "server.log"
        self.guarded = guarded
        self._guard: subprocess.Popen | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "LocalServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180) -> None:
        """Start the server; return when it answers. Raises PortTaken, ServerDied, ServerUnreachable."""
        try:
            self.spawn()
            deadline = time.monotonic() + timeout
            while not self.answers():
                if time.monotonic() > deadline:
                    raise ServerUnreachable(
                        f"ComfyUI did not answer in {timeout:.0f} s; {self.log} ends:\n{self.tail()}"
                    )
                time.sleep(0.2)
        except BaseException:
            self.stop()
            raise

    def spawn(self) -> None:
        check_comfyui(self.comfyui)
        if self.wanted_port and port_taken(self.wanted_port):
            raise PortTaken(f"port {self.wanted_port} is taken by another program: choose one with --port")
        self.port = self.wanted_port or free_port()
        with writing(f"{self.base} could not be prepared"):
            for name in BASE_FOLDERS:
                (self.base / name).mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        command = [self.python, "-u", "main.py", "--port", str(self.port), "--base-directory", str(self.base)]
        command += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
        command += ["--cpu"] if self.cpu else []
        # In a separate process group, so Ctrl-C reaches only this process, which then stops the server.
        group = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
        )
        with log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                cwd=self.comfyui,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONIOENCODING": "utf-8", **self.environment},
                **group,
            )
        self._unguard()
        if self.guarded:
            self._guard = subprocess.Popen(
                [sys.executable, "-c", GUARD, str(self.process.pid)], stdin=subprocess.PIPE, **group
            )

    def answers(self) -> bool:
        """Whether this server answers, not another program on the same port. Raises ServerDied."""
        if not self.alive:
            code = None if self.process is None else self.process.returncode
            raise ServerDied(f"ComfyUI ended by itself (exit code {code}); {self.log} ends:\n{self.tail()}")
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{self.address}/system_stats", timeout=5) as response:
                stats = json.loads(response.read(1 << 20))
            return {str(self.base), *self.arguments} <= set(stats["system"]["argv"])
        except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError):
            return False

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as log:
                return "".join(f"    {line.rstrip()}\n" for line in deque(log, lines)).rstrip()
        except OSError:
            return "    (no log)"

    def stop(self, patience: float = 10) -> None:
        """Stop the server; kill it after `patience` seconds. A second call does nothing."""
        self._unguard()
        if not self.alive:
            return
        self.process.terminate()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _unguard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
