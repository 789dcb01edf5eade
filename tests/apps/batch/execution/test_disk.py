"""A full disk: the batch stops with a message, nothing is lost, --resume works."""

import pytest
from small_disk import own_mount, run_on_small_disk
from standin import exactly, made, make_plan

from facecdm.apps.batch.errors import DiskFull
from facecdm.apps.batch.start import run_async

FULL = """
import asyncio, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from standin import StandIn, make_plan, made, exactly, picture_of
from facecdm.apps.batch.errors import DiskFull, JournalMistake
from facecdm.apps.batch.start import run_async

async def main():
    server, folder = StandIn(), Path(sys.argv[1])
    await server.up()
    server.behave = lambda nodes: [(f"{len(server.files)}.png", picture_of(nodes) + bytes(100_000))]
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


@pytest.mark.skipif(not own_mount(), reason="this user cannot mount a small disk")
def test_a_full_file_system(tmp_path):
    done = run_on_small_disk(FULL, tmp_path, "2m")
    assert done.returncode == 0, done.stderr


def test_a_failed_write_stops_the_batch_and_loses_nothing(run_scenario, tmp_path, monkeypatch):
    from facecdm.apps.batch.execution import runner

    real, written = runner.write_atomically, []

    def full_after_four(path, data):
        if len(written) == 4:
            raise OSError(28, "No space left on device")
        written.append(path)
        real(path, data)

    async def scenario(server):
        plan = make_plan(tmp_path, server.address)
        monkeypatch.setattr(runner, "write_atomically", full_after_four)
        with pytest.raises(DiskFull, match="No space left on device.*--resume"):
            await run_async(plan)
        assert len(made(tmp_path)) == 4
        monkeypatch.setattr(runner, "write_atomically", real)
        await run_async(plan, resume=True)
        return len(server.submitted)

    # The one that ran beside it was taken back; the one that could not be written was there still.
    assert run_scenario(scenario) <= 13 and made(tmp_path) == exactly(12)
