"""docs/batches.md says what works: its plan and its program are run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from facecdm.apps.batch.plan import Plan, RayPlan
from facecdm.apps.batch.results.table import COLUMNS
from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.cli import main

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
# The titles of the shipped portrait, with core nodes in place of a model.
ECHO = {
    "1": {"class_type": "LoadImage", "inputs": {"image": ""}, "_meta": {"title": "Reference"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Prompt"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "steps": 20}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "docs"}},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.S)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "workflows" / "api").mkdir(parents=True)
    (tmp_path / "people").mkdir()
    (tmp_path / "workflows" / "api" / "portrait.json").write_text(json.dumps(ECHO))
    for name in ("ada.jpg", "bob.jpg", "people/ada.jpg", "people/bob.jpg"):
        (tmp_path / name).write_bytes(FACEWORLD_REFERENCE.read_bytes())
    return tmp_path


def test_the_program(server, folder):
    (program,) = blocks("python")
    assert len(program.splitlines()) <= 30
    program = re.sub(r"servers=\[.*\]", f'servers=["{server.address}"]', program)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == "8 of 8 {}\n", done.stderr
    assert len(list((folder / "output" / "night").glob("*/*.png"))) == 8


def test_the_plan(server, folder, capsys):
    keys = yaml.safe_load(blocks("yaml")[0])
    del keys["base"]
    (folder / "plan.yaml").write_text(yaml.safe_dump(keys))
    assert main(["batch", str(folder / "plan.yaml"), "--server", server.address, "--check"]) == 0
    assert "16 jobs, 2 files to upload" in capsys.readouterr().out


def test_every_key_is_explained():
    ray = yaml.safe_load(blocks("yaml")[1])["ray"]
    assert RayPlan(**ray).workers == 8
    assert RayPlan.model_fields.keys() - ray.keys() == {"cpus", "arguments"}
    table = DOCS.partition("## The plan")[2].partition("## Output")[0]
    message = set(re.findall(r"`(\w+)`", table))
    assert Plan.model_fields.keys() <= message
    assert all(f"`{name}`" in DOCS for name in ("identity", "faces", "detection")) and "identity" in COLUMNS
