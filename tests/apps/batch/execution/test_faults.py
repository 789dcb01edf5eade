"""Servers that die, return, forget or fail: every job has one result."""

import asyncio
import csv
import io
from pathlib import Path

from standin import exactly, made, make_plan, picture_of

from facecdm.apps.batch.execution.display import Display
from facecdm.apps.batch.start import run_async


def table(folder: Path) -> list[dict]:
    with (folder / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_has_its_picture(run_scenario, tmp_path):
    async def scenario(server):
        return await run_async(make_plan(tmp_path, server.address)), server

    summary, server = run_scenario(scenario)
    assert summary.ok and made(tmp_path) == exactly(12) and len(server.submitted) == 12
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["done"] * 12 and {row["seconds"] for row in rows} == {"2.5"}
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(12)] and rows[3]["Draw it.style"] == "plain"


def test_a_free_server_gets_the_work(run_scenario, tmp_path):
    async def scenario(slow, quick):
        slow.seconds = 3
        await run_async(make_plan(tmp_path, slow.address, quick.address, seeds=40))
        return len(slow.submitted), len(quick.submitted)

    slow, quick = run_scenario(scenario, 2)
    assert slow + quick == 40 and quick > 2 * slow >= 2 and made(tmp_path) == exactly(40)


def test_jobs_of_a_dead_server_go_to_the_other(run_scenario, tmp_path):
    async def scenario(one, two):
        one.seconds = two.seconds = 0.05
        batch = asyncio.create_task(run_async(make_plan(tmp_path, one.address, two.address, seeds=40)))
        while len(one.submitted) < 6:
            await asyncio.sleep(0.01)
        await one.down()
        return await batch

    assert run_scenario(scenario, 2).ok and made(tmp_path) == exactly(40)


def test_a_server_that_returns_gets_new_jobs(run_scenario, tmp_path):
    async def scenario(one, two):
        two.seconds = 2
        one.seconds = 0.05
        batch = asyncio.create_task(run_async(make_plan(tmp_path, one.address, two.address, seeds=40)))
        while len(one.submitted) < 6:
            await asyncio.sleep(0.01)
        await one.down()
        before = len(one.submitted)
        await asyncio.sleep(1.5)
        await one.up()
        summary = await batch
        return summary, len(one.submitted) - before

    summary, more = run_scenario(scenario, 2)
    assert summary.ok and more > 5 and made(tmp_path) == exactly(40)


def test_a_server_that_returns_cancels_the_jobs_that_others_took(run_scenario, tmp_path):
    """The network is cut and the server keeps its queue."""

    async def scenario(one, two):
        one.seconds = 5
        plan = make_plan(tmp_path, one.address, two.address, seeds=20)
        batch = asyncio.create_task(run_async(plan))
        while len(one.queue) < 2:
            await asyncio.sleep(0.01)
        two.seconds = 0.3
        taken = {prompt_id for prompt_id, _, _ in one.queue}
        await one.down(forget=False)
        seeds = {nodes["1"]["inputs"]["seed"] for nodes in one.submitted}
        while not seeds <= {nodes["1"]["inputs"]["seed"] for nodes in two.submitted}:
            await asyncio.sleep(0.01)
        await one.up()
        while not taken <= set(one.deleted) and not batch.done():
            await asyncio.sleep(0.01)
        one.seconds = 0.01
        return await batch, taken, set(one.deleted)

    summary, taken, deleted = run_scenario(scenario, 2)
    assert summary.ok and made(tmp_path) == exactly(20) and taken <= deleted


def test_an_outage_that_keeps_the_queue_runs_nothing_twice(run_scenario, tmp_path):
    """The network is cut, the server goes on: its jobs are found again."""

    async def scenario(server):
        server.seconds = 0.05
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=10)))
        while len(server.submitted) < 4:
            await asyncio.sleep(0.01)
        await server.down(forget=False)
        await asyncio.sleep(2)
        await server.up()
        await batch
        return len(server.submitted)

    assert run_scenario(scenario) == 10 and made(tmp_path) == exactly(10)


def test_a_server_that_forgets_gets_its_jobs_again(run_scenario, tmp_path):
    async def scenario(server):
        server.seconds = 0.1
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=10)))
        while len(server.submitted) < 4 or not server.queue:
            await asyncio.sleep(0.01)
        server.forget()
        return await batch, len(server.submitted)

    summary, submitted = run_scenario(scenario)
    assert summary.ok and 10 < submitted <= 12 and made(tmp_path) == exactly(10)


def test_dropped_web_sockets(run_scenario, tmp_path):
    async def scenario(server):
        server.seconds = 0.1
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=8)))
        while not batch.done():
            for socket in list(server.sockets.values()):
                await socket.close()
            await asyncio.sleep(0.15)
        return (await batch).ok, len(server.submitted)

    assert run_scenario(scenario) == (True, 8) and made(tmp_path) == exactly(8)


def test_a_job_that_fails_is_tried_again_then_set_aside(run_scenario, tmp_path):
    tries = []

    def behave(nodes):
        seed = nodes["1"]["inputs"]["seed"]
        tries.append(seed)
        if seed == 3 or seed == 5 and tries.count(5) == 1:
            raise ValueError(f"no \x1b[31m{seed}")

    async def scenario(server):
        server.behave = behave
        return await run_async(make_plan(tmp_path, server.address, seeds=8))

    summary = run_scenario(scenario)
    assert summary.set_aside == {4: "node 1 (Draw) failed: no \x1b[31m3"} and summary.done == 7
    assert made(tmp_path) == {seed: seed for seed in range(8) if seed != 3}
    assert tries.count(3) == 3 and tries.count(5) == 2
    aside = [row for row in table(tmp_path) if row["state"] == "failed"]
    assert len(table(tmp_path)) == 8 and len(aside) == 1 and "no" in aside[0]["message"] and not aside[0]["file"]


def test_retry_failed(run_scenario, tmp_path):
    async def scenario(server):
        server.behave = lambda nodes: 1 / 0
        first = await run_async(make_plan(tmp_path, server.address, seeds=3))
        server.behave = lambda nodes: None
        second = await run_async(make_plan(tmp_path, server.address, seeds=3), resume=True)
        third = await run_async(make_plan(tmp_path, server.address, seeds=3), resume=True, retry_failed=True)
        return first, second, third, len(server.submitted)

    first, second, third, submitted = run_scenario(scenario)
    assert (first.done, second.done, third.done) == (0, 0, 3) and submitted == 9 + 3


def test_a_failed_job_is_tried_on_another_server(run_scenario, tmp_path):
    async def scenario(broken, good):
        broken.behave = lambda nodes: 1 / 0
        return await run_async(make_plan(tmp_path, broken.address, good.address, seeds=12))

    assert run_scenario(scenario, 2).ok and made(tmp_path) == exactly(12)


def test_a_job_that_kills_its_servers_is_set_aside(run_scenario, tmp_path):
    async def scenario(server):
        async def run(nodes):
            await server.down()
            await asyncio.sleep(0.6)
            await server.up()

        def behave(nodes):
            if nodes["1"]["inputs"]["seed"] == 1:
                crashes.append(asyncio.create_task(run(nodes)))

        crashes, server.behave = [], behave
        return await run_async(make_plan(tmp_path, server.address, seeds=4)), len(crashes)

    summary, crashes = run_scenario(scenario)
    assert list(summary.set_aside) == [2] and "went away 5 times" in summary.set_aside[2] and crashes == 5
    assert made(tmp_path) == {0: 0, 2: 2, 3: 3}


def test_a_server_that_lacks_a_model_is_not_used(run_scenario, tmp_path):
    async def scenario(good, late):
        await late.down()
        info = {
            **late.info,
            "Draw": {
                **late.info["Draw"],
                "input": {
                    "required": {**late.info["Draw"]["input"]["required"], "model_name": [["other.safetensors"]]}
                },
            },
        }
        late.info, good.seconds = info, 0.6
        batch = asyncio.create_task(run_async(make_plan(tmp_path, good.address, late.address)))
        await asyncio.sleep(1)
        await late.up()
        await batch
        return late.requests, late.submitted

    asked, submitted = run_scenario(scenario, 2)
    assert "GET /object_info" in asked and submitted == [] and made(tmp_path) == exactly(12)


def test_warnings_of_nodes_are_shown_and_in_the_table(run_scenario, tmp_path):
    async def scenario(server):
        def behave(nodes):
            seed = nodes["1"]["inputs"]["seed"]
            server.files[f"{seed}.png"] = picture_of(nodes)
            images = [{"filename": f"{seed}.png", "subfolder": "", "type": "output"}]
            shown = {"facecdm_warnings": ["no face\nin the photo", "no face\nin the photo"]}
            outputs = {"2": {"images": images}, **({"1": shown} if seed == 1 else {})}
            return {"status": {"status_str": "success", "messages": []}, "outputs": outputs}

        server.behave = behave
        server.warn = lambda nodes: ["face_strength has no effect"] if nodes["1"]["inputs"]["seed"] else []
        return await run_async(make_plan(tmp_path, server.address, seeds=3), display=Display(log))

    log = io.StringIO()
    assert run_scenario(scenario).ok
    lines = log.getvalue().splitlines()
    assert [lines.count(f"job {number}: face_strength has no effect") for number in (1, 2, 3)] == [0, 1, 1]
    assert lines.count("job 2: no face in the photo") == 1
    rows = table(tmp_path)
    assert [row["warnings"] for row in rows] == [
        "",
        "no face in the photo | face_strength has no effect",
        "face_strength has no effect",
    ]
    assert list(rows[0])[-1] == "warnings"
