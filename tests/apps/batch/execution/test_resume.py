"""Batches that stop and resume."""

import asyncio
import csv
import io
import threading
from pathlib import Path

import pytest
from standin import NODES, StandIn, exactly, made, make_plan

from facecdm.apps.batch import start
from facecdm.apps.batch.errors import JournalMistake, NoServerLeft
from facecdm.apps.batch.execution.display import Display
from facecdm.apps.batch.results.measure import Measurement
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


# ---- measuring ----


class Ruler:
    """A Measure that needs no face pack. `measure_one` is called with the seed in the image's name."""

    has_people, notes = True, []

    def __init__(self, settings: str, measure_one):
        self.settings, self.measure_one = settings, measure_one

    def measure(self, path: Path, person: object) -> Measurement:
        return Measurement(self.measure_one(int(path.stem)), 1, 0.9)


@pytest.fixture
def run_measured(run_scenario, tmp_path, monkeypatch):
    """Run a batch of three images with a Ruler; return its log."""

    def run_measured(measure_one, settings: str = "buffalo_l, person", log=None, resume: bool = False) -> str:
        log = log or io.StringIO()
        ruler = (Ruler(settings, measure_one), "") if measure_one else (None, "faces are not measured")
        monkeypatch.setattr(start, "open_measure", lambda batch: ruler)

        async def scenario(server):
            return await run_async(make_plan(tmp_path, server.address, seeds=3), resume=resume, display=Display(log))

        assert run_scenario(scenario).ok
        return log.getvalue()

    return run_measured


def test_an_image_that_cannot_be_measured_ends_nothing(run_measured, tmp_path):
    def fail(seed):
        if seed == 0:
            raise RuntimeError("out of memory")
        return seed / 2

    assert "0.png is not measured: out of memory" in run_measured(fail)
    assert [row["identity"] for row in table(tmp_path)] == ["", "0.5", "1.0"]
    run_measured(lambda seed: 0.25, resume=True)
    assert [row["identity"] for row in table(tmp_path)] == ["0.25", "0.5", "1.0"]


def test_another_person_or_pack_measures_again(run_measured, tmp_path):
    run_measured(lambda seed: 0.5)
    assert "measured again" not in run_measured(lambda seed: 0.7, resume=True)
    assert [row["identity"] for row in table(tmp_path)] == ["0.5"] * 3
    assert "all images are measured again" in run_measured(lambda seed: 0.7, "antelopev2, person", resume=True)
    assert [row["identity"] for row in table(tmp_path)] == ["0.7"] * 3


def test_a_resume_that_only_measures_shows_progress(run_measured, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def wait_until_shown(seed):
        for _ in range(1000):
            if f"measured {seed} of 3" in log.getvalue():
                return 0.5
            paused.wait(0.01)
        return None

    run_measured(None)
    log, paused = Terminal(), threading.Event()
    run_measured(wait_until_shown, log=log, resume=True)
    assert [row["identity"] for row in table(tmp_path)] == ["0.5"] * 3


def test_the_check_of_a_plan_does_not_block_a_stop(run_scenario, tmp_path, monkeypatch):
    """Ctrl-C is handled by the event loop."""
    checking, stopped, seen = threading.Event(), threading.Event(), []
    real = start.check

    def check(*arguments):
        checking.set()
        seen.append(stopped.wait(10))
        return real(*arguments)

    monkeypatch.setattr(start, "check", check)

    async def scenario(server):
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address)))
        while not checking.is_set() and not batch.done():
            await asyncio.sleep(0.01)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        stopped.set()

    run_scenario(scenario)
    assert seen == [True], "the event loop did not run"
