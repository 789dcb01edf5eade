"""Batches that stop and resume."""

import asyncio
import csv
from pathlib import Path

import pytest
from standin import NODES, StandIn, exactly, made, make_plan

from facecdm.apps.batch.errors import JournalMistake, NoServerLeft
from facecdm.apps.batch.start import run_async


def table(folder: Path) -> list[dict]:
    with (folder / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_resume_after_the_last_server_went_away(run_scenario, tmp_path):
    async def scenario(server):
        server.seconds = 0.05
        plan = make_plan(tmp_path, server.address, give_up=1)
        batch = asyncio.create_task(run_async(plan))
        while len(server.submitted) < 5:
            await asyncio.sleep(0.01)
        await server.down()
        with pytest.raises(NoServerLeft, match="--resume"):
            await batch
        before = made(tmp_path)
        assert 0 < len(before) < 12 and sum(row["state"] == "done" for row in table(tmp_path)) == len(before)
        await server.up()
        server.submitted.clear()
        await run_async(plan, resume=True)
        return len(before), len(server.submitted)

    before, again = run_scenario(scenario)
    assert made(tmp_path) == exactly(12) and again == 12 - before


def test_resume_after_a_stop(run_scenario, tmp_path):
    """What Ctrl-C does: the queue there is empty, nothing half is here, and no finished job runs again."""

    async def scenario(server):
        server.seconds = 0.1
        plan = make_plan(tmp_path, server.address)
        for stop_at in (3, 7):
            batch = asyncio.create_task(run_async(plan, resume=stop_at > 3))
            while len(list((tmp_path / "out").glob("*.png"))) < stop_at:
                await asyncio.sleep(0.01)
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            assert server.queue == []
        finished = {nodes["1"]["inputs"]["seed"] for nodes in server.submitted[: len(made(tmp_path))]}
        server.submitted.clear()
        await run_async(plan, resume=True)
        return finished & {nodes["1"]["inputs"]["seed"] for nodes in server.submitted}

    assert run_scenario(scenario) == set() and made(tmp_path) == exactly(12)


def test_two_batches_do_not_share_a_folder(run_scenario, tmp_path):
    async def scenario(server: StandIn):
        server.seconds = 0.2
        plan = make_plan(tmp_path, server.address, seeds=4)
        first = asyncio.create_task(run_async(plan))
        while not server.submitted:
            await asyncio.sleep(0.01)
        with pytest.raises(JournalMistake, match="another batch works in"):
            await run_async(plan, resume=True)
        return await first

    assert run_scenario(scenario).ok


def test_a_plan_that_changed_is_refused(run_scenario, tmp_path):
    async def scenario(server):
        await run_async(make_plan(tmp_path, server.address, seeds=3))
        with pytest.raises(JournalMistake, match="3 of 3 jobs.*--resume"):
            await run_async(make_plan(tmp_path, server.address, seeds=3))
        changed = {**NODES, "1": {**NODES["1"], "inputs": {**NODES["1"]["inputs"], "text": "new"}}}
        with pytest.raises(JournalMistake, match=r'Draw it.text is "new", it was ""') as message:
            await run_async(make_plan(tmp_path, server.address, seeds=5, workflow=changed), resume=True)
        assert "there are 5, there were 3" in str(message.value)
        return len(server.submitted)

    assert run_scenario(scenario) == 3
