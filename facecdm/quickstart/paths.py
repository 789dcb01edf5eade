"""Paths of the quick start: .quickstart/ in the clone."""

import os
from pathlib import Path

from ..files import REPOSITORY

HOME = REPOSITORY / ".quickstart"
VENV = HOME / "venv"
COMFYUI = HOME / "ComfyUI"
BASE = HOME / "base"  # ComfyUI's --base-directory: models, input, output
FACES = BASE / "models" / "insightface" / "models" / "buffalo_s"
FRONTEND = HOME / "frontend"  # the newest frontend, for the browser tests
LOG = HOME / "setup.log"


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
