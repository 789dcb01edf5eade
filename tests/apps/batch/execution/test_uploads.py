"""Local files of a plan on the servers."""

import asyncio

import pytest
from PIL import Image
from standin import make_plan

from facecdm.apps.batch.command import show
from facecdm.apps.batch.errors import JournalMistake
from facecdm.apps.batch.start import run_async


def test_references_are_uploaded_once(run_scenario, tmp_path):
    for name in ("ada", "bob"):
        Image.new("RGB", (8, 8), name == "ada" and "red" or "blue").save(tmp_path / f"{name}.png")

    async def scenario(one, two):
        plan = make_plan(
            tmp_path,
            one.address,
            two.address,
            name="{person}/{seed}",
            inputs={"person": "Draw it.image", "seed": "Draw it.seed"},
            jobs=[{"person": ["ada.png", "bob.png"]}, {"seed": {"from": 0, "count": 10}}],
        )
        await run_async(plan)
        return one, two

    for server in run_scenario(scenario, 2):
        assert len(set(server.uploads)) == len(server.uploads) <= 2
        assert {nodes["1"]["inputs"]["image"] for nodes in server.submitted} <= set(server.uploads)
    assert {path.name for path in (tmp_path / "out").glob("*/*.png")} == {f"{n}.png" for n in range(10)}
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 20


def test_a_reference_that_changes_during_the_batch(run_scenario, tmp_path):
    for name in ("ada", "bob", "eve"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")

    async def scenario(server):
        server.seconds = 0.2
        plan = make_plan(
            tmp_path,
            server.address,
            name="{job}",
            inputs={"person": "Draw.image"},
            attempts=1,
            jobs=[{"person": ["old.png", "ada.png", "bob.png", "eve.png"]}],
        )
        batch = asyncio.create_task(run_async(plan))
        while not server.submitted:
            await asyncio.sleep(0.01)
        (tmp_path / "bob.png").write_bytes(b"another")
        (tmp_path / "eve.png").unlink()
        return await batch

    aside = run_scenario(scenario).set_aside
    assert aside.keys() == {3, 4} and "has changed" in aside[3] and "cannot be read any more" in aside[4]


def plan_of(folder, server, *people: str):
    inputs = {"person": "Draw it.image"}
    return make_plan(folder, server.address, name="{person}", inputs=inputs, jobs=[{"person": list(people)}])


def test_a_damaged_reference_costs_only_its_own_jobs(run_scenario, tmp_path, capsys):
    for name in ("ada", "eve"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "bob.png").write_bytes(b"no picture")

    async def scenario(server):
        plan = plan_of(tmp_path, server, "ada.png", "bob.png", "eve.png")
        assert await asyncio.to_thread(show, plan) == 1
        checked = capsys.readouterr()
        first = await run_async(plan)
        second = await run_async(plan, resume=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "bob.png")
        third = await run_async(plan, resume=True, retry_failed=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "bob.png")
        with pytest.raises(JournalMistake, match="job 2: person is .*bob.png"):
            await run_async(plan, resume=True)
        return checked, first, second, third, len(server.submitted)

    checked, first, second, third, submitted = run_scenario(scenario)
    assert "3 jobs, 2 files to upload" in checked.out
    assert "bob.png is no picture" in checked.err and "its jobs will be set aside" in checked.err
    for summary in (first, second):
        assert summary.done == 2 and list(summary.set_aside) == [2] and "bob.png is no picture" in summary.set_aside[2]
    assert third.ok and submitted == 3


def test_a_reference_that_is_deleted_blocks_no_resume(run_scenario, tmp_path):
    for name in ("ada", "bob", "eve"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")

    async def scenario(server):
        plan = plan_of(tmp_path, server, "ada.png", "bob.png", "eve.png")
        server.behave = lambda nodes: 1 / 0 if "eve" in nodes["1"]["inputs"]["image"] else None
        first = await run_async(plan)
        (tmp_path / "ada.png").unlink()
        (tmp_path / "eve.png").unlink()
        second = await run_async(plan, resume=True, retry_failed=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "eve.png")
        server.behave = lambda nodes: None
        third = await run_async(plan, resume=True, retry_failed=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "ada.png")
        with pytest.raises(JournalMistake, match="job 1: person is .*ada.png"):
            await run_async(plan, resume=True)
        return first, second, third

    first, second, third = run_scenario(scenario)
    assert (first.done, second.done, third.done) == (2, 2, 3)
    assert second.set_aside[3].endswith("eve.png is gone")
