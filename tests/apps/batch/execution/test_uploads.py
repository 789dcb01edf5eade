"""Local files of a plan on the servers."""

import asyncio

from PIL import Image
from standin import make_plan

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
