"""A plan reads and uploads only files below its own folder, or below folders that the command names."""

import asyncio
import json
import os

import pytest
from PIL import Image
from standin import INFO, NODES, made, make_plan

from facecdm.apps.batch.errors import PlanMistake
from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.plan.check import check
from facecdm.cli import main

OUTSIDE = "lies outside the plan's folder: allow its folder with --files-from"


@pytest.fixture
def home(tmp_path):
    """The plan's folder; beside it an image, a text and a table that the plan has no business with."""
    (tmp_path / "plan").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "id_secret").write_text("key\n")
    (tmp_path / "secret.csv").write_text("text\nkey\n")
    return tmp_path / "plan"


def plan(home, jobs, files_from=()) -> Plan:
    keys = {"workflow": NODES, "inputs": {"image": "Draw it.image", "text": "Draw it.text"}, "jobs": jobs}
    return Plan.make(keys, home, list(files_from))


CASES = {
    "pattern": [{"image": {"files": "../secret.png"}, "text": "x"}],
    "glob": [{"image": {"files": "../*.png"}, "text": "x"}],
    "value": [{"image": "../secret.png", "text": "x"}],
    "absolute": [{"image": "/HOME/../secret.png", "text": "x"}],
    "text": [{"image": "old.png", "text": {"files": "../id_secret"}}],
    "lines": [{"image": "old.png", "text": {"lines": "../id_secret"}}],
    "table": ["../secret.csv", {"image": "old.png"}],
}


@pytest.mark.parametrize("case", CASES)
def test_files_outside_are_refused_and_allowed_by_the_command(home, case):
    jobs = [
        {name: value.replace("/HOME", str(home)) if isinstance(value, str) else value for name, value in group.items()}
        if isinstance(group, dict)
        else group
        for group in CASES[case]
    ]
    with pytest.raises(PlanMistake) as error:
        check(plan(home, jobs), {"here": INFO})
    assert any(OUTSIDE in line for line in error.value.mistakes), error.value.mistakes
    assert check(plan(home, jobs, [home.parent]), {"here": INFO}).rows


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_link_does_not_lead_outside(home):
    (home / "link.png").symlink_to(home.parent / "secret.png")
    with pytest.raises(PlanMistake, match="lies outside"):
        check(plan(home, [{"image": "link.png", "text": "x"}]), {"here": INFO})


def test_a_plan_cannot_allow_itself(home):
    with pytest.raises(PlanMistake, match="files_from: is no key of a plan"):
        Plan.make({"workflow": NODES, "jobs": {"a": 1}, "files_from": [".."]}, home)


def test_nothing_is_uploaded(run_scenario, home, capsys):

    async def scenario(server):
        keys = make_plan(home, server.address, seeds=1).model_dump(mode="json", exclude={"output"}, exclude_unset=True)
        keys |= {"inputs": {"person": "Draw it.image"}, "jobs": [{"person": {"files": "../secret.png"}}], "name": "1"}
        (home / "plan.yaml").write_text(json.dumps(keys))
        command = ["batch", str(home / "plan.yaml"), "--output", str(home / "out")]
        refused = await asyncio.to_thread(main, command)
        uploads = list(server.uploads)
        allowed = await asyncio.to_thread(main, [*command, "--files-from", str(home.parent)])
        return refused, uploads, allowed, len(server.uploads)

    assert run_scenario(scenario) == (1, [], 0, 1)
    assert OUTSIDE in capsys.readouterr().err and len(made(home)) == 1
