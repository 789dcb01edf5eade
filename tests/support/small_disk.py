"""A real small file system: tmpfs in a mount namespace of its own, which needs no root where users may make one."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def own_mount() -> bool:
    """Whether this user can mount."""
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "x", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def run_on_small_disk(script: str, folder: Path, size: str) -> subprocess.CompletedProcess:
    """Run a Python script with a disk of `size` mounted on folder/disk: its first argument, then two import folders."""
    path, disk = folder / "script.py", folder / "disk"
    path.write_text(script, encoding="utf-8")
    disk.mkdir()
    shell = f'mount -t tmpfs -o size={size} disk "$1" && shift && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", shell, "sh", disk, sys.executable, path, disk]
    command += [ROOT, ROOT / "tests" / "support"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
