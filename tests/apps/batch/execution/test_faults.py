"""Exactly one result per job, whatever goes wrong: servers that die, lie, come back; disks that are full."""

import asyncio
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from standin import NODES, StandIn, exactly, made, make_plan

from facecdm.apps.batch.errors import DiskFull, JournalMistake, NoServerLeft
from facecdm.apps.batch.start import run_async

ROOT = Path(__file__).resolve().parents[4]


def table(folder: Path) -> list[dict]:
    with (folder / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_has_its_picture(play, tmp_path):
    async def scene(server):
        return await run_async(make_plan(tmp_path, server.address)), server

    summary, server = play(scene)
    assert summary.ok and made(tmp_path) == exactly(12) and len(server.submitted) == 12
    rows = table(tmp_path)
    assert [row["state"] for row in rows] == ["done"] * 12 and {row["seconds"] for row in rows} == {"2.5"}
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(12)] and rows[3]["Draw it.style"] == "plain"


def test_a_free_server_gets_the_work(play, tmp_path):
    async def scene(slow, quick):
        slow.seconds = 0.5
        await run_async(make_plan(tmp_path, slow.address, quick.address, seeds=40))
        return len(slow.submitted), len(quick.submitted)

    slow, quick = play(scene, 2)
    assert slow + quick == 40 and quick > 2 * slow >= 2 and made(tmp_path) == exactly(40)


def test_a_dead_servers_jobs_go_to_the_other(play, tmp_path):
    async def scene(one, two):
        one.seconds = two.seconds = 0.05
        batch = asyncio.create_task(run_async(make_plan(tmp_path, one.address, two.address, seeds=40)))
        while len(one.submitted) < 6:
            await asyncio.sleep(0.01)
        await one.down()
        return await batch

    assert play(scene, 2).ok and made(tmp_path) == exactly(40)


def test_a_server_that_comes_back_works_on(play, tmp_path):
    async def scene(one, two):
        two.seconds = 0.4
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

    summary, more = play(scene, 2)
    assert summary.ok and more > 5 and made(tmp_path) == exactly(40)


def test_an_outage_that_keeps_the_queue_runs_nothing_twice(play, tmp_path):
    """The network is cut, the server goes on: its jobs are found again."""

    async def scene(server):
        server.seconds = 0.05
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=10)))
        while len(server.submitted) < 4:
            await asyncio.sleep(0.01)
        await server.down(forget=False)
        await asyncio.sleep(2)
        await server.up()
        await batch
        return len(server.submitted)

    assert play(scene) == 10 and made(tmp_path) == exactly(10)


def test_a_server_that_forgets_gets_its_jobs_again(play, tmp_path):
    async def scene(server):
        server.seconds = 0.1
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=10)))
        while len(server.submitted) < 4:
            await asyncio.sleep(0.01)
        server.forget()
        return await batch, len(server.submitted)

    summary, submitted = play(scene)
    assert summary.ok and 10 < submitted <= 12 and made(tmp_path) == exactly(10)


def test_a_web_socket_that_drops(play, tmp_path):
    async def scene(server):
        server.seconds = 0.1
        batch = asyncio.create_task(run_async(make_plan(tmp_path, server.address, seeds=8)))
        while not batch.done():
            for socket in list(server.sockets.values()):
                await socket.close()
            await asyncio.sleep(0.15)
        return (await batch).ok, len(server.submitted)

    assert play(scene) == (True, 8) and made(tmp_path) == exactly(8)


def test_a_job_that_fails_is_tried_again_then_set_aside(play, tmp_path):
    tries = []

    def behave(nodes):
        seed = nodes["1"]["inputs"]["seed"]
        tries.append(seed)
        if seed == 3 or seed == 5 and tries.count(5) == 1:
            raise ValueError(f"no \x1b[31m{seed}")

    async def scene(server):
        server.behave = behave
        return await run_async(make_plan(tmp_path, server.address, seeds=8))

    summary = play(scene)
    assert summary.set_aside == {4: "node 1 (Draw) failed: no \x1b[31m3"} and summary.done == 7
    assert made(tmp_path) == {seed: seed for seed in range(8) if seed != 3}
    assert tries.count(3) == 3 and tries.count(5) == 2
    aside = [row for row in table(tmp_path) if row["state"] == "failed"]
    assert len(table(tmp_path)) == 8 and len(aside) == 1 and "no" in aside[0]["message"] and not aside[0]["file"]


def test_what_was_set_aside_can_be_tried_again(play, tmp_path):
    async def scene(server):
        server.behave = lambda nodes: 1 / 0
        first = await run_async(make_plan(tmp_path, server.address, seeds=3))
        server.behave = lambda nodes: None
        second = await run_async(make_plan(tmp_path, server.address, seeds=3), resume=True)
        third = await run_async(make_plan(tmp_path, server.address, seeds=3), resume=True, retry_failed=True)
        return first, second, third, len(server.submitted)

    first, second, third, submitted = play(scene)
    assert (first.done, second.done, third.done) == (0, 0, 3) and submitted == 9 + 3


def test_a_job_that_fails_here_is_tried_elsewhere(play, tmp_path):
    async def scene(broken, good):
        broken.behave = lambda nodes: 1 / 0
        return await run_async(make_plan(tmp_path, broken.address, good.address, seeds=12))

    assert play(scene, 2).ok and made(tmp_path) == exactly(12)


def test_a_job_that_kills_its_servers_is_set_aside(play, tmp_path):
    async def scene(server):
        async def run(nodes):
            await server.down()
            await asyncio.sleep(0.6)
            await server.up()

        def behave(nodes):
            if nodes["1"]["inputs"]["seed"] == 1:
                deaths.append(asyncio.create_task(run(nodes)))

        deaths, server.behave = [], behave
        return await run_async(make_plan(tmp_path, server.address, seeds=4)), len(deaths)

    summary, deaths = play(scene)
    assert list(summary.set_aside) == [2] and "went away 5 times" in summary.set_aside[2] and deaths == 5
    assert made(tmp_path) == {0: 0, 2: 2, 3: 3}


# ---- servers that lie ----


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "C:\\x.png", "x\0.png", "con.png", "x" * 5000 + ".png"])
def test_a_servers_names_do_not_reach_the_disk(play, tmp_path, name):
    from standin import drawing

    async def scene(server):
        server.behave = lambda nodes: [(name, drawing(nodes))]
        return await run_async(make_plan(tmp_path, server.address, seeds=2, attempts=1))

    summary = play(scene)
    assert made(tmp_path) == (exactly(2) if summary.ok else {})
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ([], "saved no file"),
        ([("a.png", b"<html>no picture</html>")], "cannot be read"),
        ([("a.png", b"\x89PNG" * (1 << 19))], "more than 1 MiB"),
        ([(f"{n}.png", b"") for n in range(1001)], "made 1001 files"),
        ({"status": {"status_str": "success", "messages": 7}, "outputs": {}}, "cannot be read"),
        (
            {
                "status": {"status_str": "success", "messages": []},
                "outputs": {"1": {"images": [{"filename": 7, "type": "output"}]}},
            },
            "not text",
        ),
    ],
)
def test_outputs_that_are_not_taken(play, tmp_path, outputs, told):
    async def scene(server):
        server.behave = lambda nodes: outputs if nodes["1"]["inputs"]["seed"] == 1 else None
        return await run_async(make_plan(tmp_path, server.address, seeds=3, attempts=2, file_limit=1))

    summary = play(scene)
    assert list(summary.set_aside) == [2] and told in summary.set_aside[2]
    assert made(tmp_path) == {0: 0, 2: 2}


def test_a_suffix_that_could_be_run_is_not_kept(play, tmp_path):
    async def scene(server):
        server.behave = lambda nodes: [("run.exe", b"MZ"), ("film.mp4", b"film"), ("run.py", b"print()")]
        return await run_async(make_plan(tmp_path, server.address, seeds=1))

    play(scene)
    assert {path.name for path in (tmp_path / "out").glob("0*")} == {"0.bin", "0-2.mp4", "0-3.bin"}


def test_only_the_servers_named_are_contacted(play, tmp_path):
    """One server answers everything with a way to the other: the other hears nothing."""
    from aiohttp import web

    async def scene(one, other):
        async def elsewhere(request):
            raise web.HTTPTemporaryRedirect(f"http://{other.address}{request.path_qs}")

        one._object_info = one._ws = elsewhere
        await one.down()
        await one.up()
        with pytest.raises(NoServerLeft, match="answered 307"):
            await run_async(make_plan(tmp_path, one.address))
        return one.requests, other.requests

    asked, heard = play(scene, 2)
    assert "GET /object_info" in asked and heard == []


# ---- ends and beginnings ----


def test_no_server_any_more_and_on_with_resume(play, tmp_path):
    async def scene(server):
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

    before, again = play(scene)
    assert made(tmp_path) == exactly(12) and again == 12 - before


def test_stopped_and_resumed(play, tmp_path):
    """What Ctrl-C does: the queue there is empty, nothing half is here, and no finished job runs again."""

    async def scene(server):
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

    assert play(scene) == set() and made(tmp_path) == exactly(12)


def test_a_server_that_lacks_a_model_is_not_used_when_it_comes_late(play, tmp_path):
    async def scene(good, late):
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
        late.info, good.seconds = info, 0.2
        batch = asyncio.create_task(run_async(make_plan(tmp_path, good.address, late.address)))
        await asyncio.sleep(1)
        await late.up()
        await batch
        return late.requests, late.submitted

    asked, submitted = play(scene, 2)
    assert "GET /object_info" in asked and submitted == [] and made(tmp_path) == exactly(12)


def test_references_are_uploaded_once(play, tmp_path):
    from PIL import Image

    for name in ("ada", "bob"):
        Image.new("RGB", (8, 8), name == "ada" and "red" or "blue").save(tmp_path / f"{name}.png")

    async def scene(one, two):
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

    for server in play(scene, 2):
        assert len(set(server.uploads)) == len(server.uploads) <= 2
        assert {nodes["1"]["inputs"]["image"] for nodes in server.submitted} <= set(server.uploads)
    assert {path.name for path in (tmp_path / "out").glob("*/*.png")} == {f"{n}.png" for n in range(10)}
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 20


def test_a_reference_that_changes_under_way_is_told(play, tmp_path):
    from PIL import Image

    for name in ("ada", "bob", "eve"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")

    async def scene(server):
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

    aside = play(scene).set_aside
    assert aside.keys() == {3, 4} and "has changed" in aside[3] and "cannot be read any more" in aside[4]


# ---- the disk ----

FULL = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from standin import StandIn, make_plan, made, exactly, drawing
from facecdm.apps.batch.errors import DiskFull, JournalMistake
from facecdm.apps.batch.start import run_async

async def main():
    server, folder = StandIn(), Path(sys.argv[1])
    await server.up()
    server.behave = lambda nodes: [(f"{len(server.files)}.png", drawing(nodes) + bytes(100_000))]
    plan = make_plan(folder, server.address, seeds=12)
    ballast = folder / "ballast"
    for free in (60_000, 350_000, 350_000):
        ballast.unlink(missing_ok=True)
        room = 1_900_000 - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        ballast.write_bytes(bytes(max(0, room - free)))
        try:
            await run_async(plan, resume=True)
            raise SystemExit("the disk was not full")
        except (DiskFull, JournalMistake) as error:
            assert "No space left" in str(error) or "full" in str(error) or "cannot be" in str(error), error
        done = made(folder)
        assert all(name == seed for name, seed in done.items()), done
        print(len(done), "done", flush=True)
    ballast.unlink()
    submitted = len(server.submitted)
    await run_async(plan, resume=True)
    assert made(folder) == exactly(12), made(folder)
    # What ran when the disk was found full was taken back, one job a time; what had ended did not run again.
    assert len(server.submitted) <= 12 + 3, len(server.submitted)
    await server.down()

asyncio.run(asyncio.wait_for(main(), 300))
"""


def own_mount() -> bool:
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "x", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not own_mount(), reason="this user cannot mount a small disk")
def test_a_disk_that_is_really_full(tmp_path):
    script = tmp_path / "full.py"
    script.write_text(FULL)
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = 'mount -t tmpfs -o size=2m disk "$1" && shift && exec "$@"'
    command = ["unshare", "-Urm", "sh", "-c", shell, "sh", disk, sys.executable, script, disk]
    command += [ROOT, ROOT / "tests" / "support"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_a_file_that_cannot_be_written_stops_the_batch_and_loses_nothing(play, tmp_path, monkeypatch):
    from facecdm.apps.batch.execution import runner

    real, written = runner.write_atomically, []

    def full_after_four(path, data):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, data)

    async def scene(server):
        plan = make_plan(tmp_path, server.address)
        monkeypatch.setattr(runner, "write_atomically", full_after_four)
        with pytest.raises(DiskFull, match="No space left on device.*--resume"):
            await run_async(plan)
        assert len(made(tmp_path)) == 4
        monkeypatch.setattr(runner, "write_atomically", real)
        await run_async(plan, resume=True)
        return len(server.submitted)

    # The one that ran beside it was taken back; the one that could not be written was there still.
    assert play(scene) <= 13 and made(tmp_path) == exactly(12)


def test_two_batches_do_not_share_a_folder(play, tmp_path):
    async def scene(server: StandIn):
        server.seconds = 0.2
        plan = make_plan(tmp_path, server.address, seeds=4)
        first = asyncio.create_task(run_async(plan))
        await asyncio.sleep(0.5)
        with pytest.raises(JournalMistake, match="another batch works in"):
            await run_async(plan, resume=True)
        return await first

    assert play(scene).ok


def test_a_plan_that_changed_is_refused(play, tmp_path):
    async def scene(server):
        await run_async(make_plan(tmp_path, server.address, seeds=3))
        with pytest.raises(JournalMistake, match="3 of 3 jobs.*--resume"):
            await run_async(make_plan(tmp_path, server.address, seeds=3))
        changed = {**NODES, "1": {**NODES["1"], "inputs": {**NODES["1"]["inputs"], "text": "new"}}}
        with pytest.raises(JournalMistake, match=r'Draw it.text is "new", it was ""') as told:
            await run_async(make_plan(tmp_path, server.address, seeds=5, workflow=changed), resume=True)
        assert "there are 5, there were 3" in str(told.value)
        return len(server.submitted)

    assert play(scene) == 3
