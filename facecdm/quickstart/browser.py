"""Chromium for the browser tests."""

import os
import shutil
import subprocess
from pathlib import Path

from ..files import REPOSITORY
from .steps import SetupError, run

_IS_THERE = "from chromium import find_browser as f; raise SystemExit(f() is None)"


def get_browser(python: Path) -> str:
    """Find or install Chromium. Returns an empty string, or the reason if neither works."""
    if _is_there(python):
        return ""
    tried = []
    for label, commands in ways_to_a_browser(python):
        print(f"  browser for the tests ({label}) …", flush=True)
        try:
            for command in commands:
                run(command, f"{label} failed")
        except (SetupError, OSError) as error:
            tried.append(str(error).splitlines()[0])
            continue
        if _is_there(python):
            return ""
        tried.append(f"{label} installed none")
    return "; ".join(tried) or "install chromium, or name one in FACECDM_BROWSER"


def _is_there(python: Path) -> bool:
    support = REPOSITORY / "tests" / "support"
    return subprocess.run([str(python), "-c", _IS_THERE], cwd=support, check=False).returncode == 0


def ways_to_a_browser(python: Path) -> list[tuple[str, list[list[str]]]]:
    """Ways to install Chromium: Debian's package if we are root, then playwright's download."""
    ways = []
    if shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        ways.append(("apt-get", [["apt-get", "update"], install]))
    playwright = [str(python), "-m", "playwright", "install", "chromium"]
    ways.append(("playwright", [[str(python), "-m", "pip", "install", "playwright"], playwright]))
    return ways
