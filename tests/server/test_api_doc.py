"""The scripts of docs/api.md work as they are written there."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.bases.demo import DEMO
from facecdm.demo.weights import default_path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT, LIBRARY = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.S)
PORTRAIT = (ROOT / "workflows" / "api" / "portrait.json").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like the pack's, with a portrait workflow of two steps."""
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")
    (tmp_path / "workflows" / "api").mkdir(parents=True)
    quick = PORTRAIT.replace('"steps": 20', '"steps": 2')
    assert quick != PORTRAIT
    (tmp_path / "workflows" / "api" / "portrait.json").write_text(quick, encoding="utf-8")
    (tmp_path / "portrait.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-I", "portrait.py", *arguments], cwd=folder, capture_output=True, text=True)


def test_the_script_makes_a_portrait(server, folder):
    from PIL import Image

    done = run_script(folder, str(FACEWORLD_REFERENCE), "a young man, plain red background", server.address)
    assert done.returncode == 0, done.stderr
    picture = Image.open(folder / "portrait.png")
    assert picture.size == (DEMO.resolution, DEMO.resolution) and "plain red background" in picture.info["prompt"]


def test_the_script_prints_what_failed(server, folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "grey.png")
    done = run_script(folder, str(tmp_path / "grey.png"), "a man", server.address)
    assert done.returncode == 1 and "no face" in done.stderr


def test_the_library_does_the_same(server, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(LIBRARY.replace("127.0.0.1:8188", server.address), names)  # noqa: S102 - it is our own page
    data = asyncio.run(names["portrait"](FACEWORLD_REFERENCE, "a man"))
    assert data.startswith(b"\x89PNG")


def test_the_script_is_short():
    assert len([line for line in SCRIPT.splitlines() if line.strip()]) <= 30
