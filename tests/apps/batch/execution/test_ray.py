"""A plan on Ray, as a cluster of this machine: a ComfyUI dies, a worker dies, no process is left."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from facecdm.apps.batch.errors import PlanMistake
from facecdm.apps.batch.execution import ray_workers
from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.start import run_async
from facecdm.comfy_api.server import free_port

ray = pytest.importorskip("ray", reason="the optional extra facecdm[ray] is not installed")


def plan(tmp_path: Path, comfyui: Path, base: Path, **changed) -> Plan:
    nodes = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "flat"}},
    }
    keys = {
        "workflow": nodes,
        "output": tmp_path / "out",
        "patience": 3,
        "name": "{colour}",
        "ray": {"comfyui": str(comfyui), "base": str(base), "workers": 1, "cpus": 0.5},
        "inputs": {"colour": "1.color"},
        "jobs": [{"colour": {"from": 1, "count": 24}}],
    }
    return Plan.make({**keys, **changed}, tmp_path)


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.1)
    return False


async def pid(worker) -> int:
    """Process id of the worker's ComfyUI, as soon as it runs."""
    while True:
        try:
            return await worker.actor.pid.remote()
        except ray.exceptions.RayError:
            await asyncio.sleep(0.5)


@pytest.fixture
def workers(monkeypatch):
    """The connections that a batch makes."""
    made, real = [], ray_workers.RayConnection.__init__

    def note(self, actor):
        real(self, actor)
        made.append(self)

    monkeypatch.setattr(ray_workers.RayConnection, "__init__", note)
    return made


@pytest.fixture
def ports(monkeypatch):
    """Ports that Ray need not ask its agents for: it would wait 15 s and die (ray-project/ray #65983)."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # the default, 15, would starve it on a busy machine
    parameters = pytest.importorskip("ray._private.parameter")
    real = parameters.RayParams.__init__

    def init(self, *arguments, **named):
        agents = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
        real(self, *arguments, **{**named, **{name: named.get(name) or free_port() for name in agents}})

    monkeypatch.setattr(parameters.RayParams, "__init__", init)


def test_a_plan_on_ray_whose_comfyui_and_worker_die(comfyui, tmp_path, workers, ports):
    base, pids = tmp_path / "base", []

    async def scenario():
        batch = asyncio.create_task(run_async(plan(tmp_path, comfyui, base)))
        for kill_at in (4, 12):
            while len(list((tmp_path / "out").glob("*.png"))) < kill_at:
                assert not batch.done(), batch.result()
                await asyncio.sleep(0.05)
            pids.append(await pid(workers[0]))
            if kill_at == 4:
                os.kill(pids[-1], 9)  # ComfyUI
            else:
                ray.kill(workers[0].actor, no_restart=False)  # what runs it
        await asyncio.sleep(1)
        pids.append(await pid(workers[0]))
        return await batch

    summary = asyncio.run(asyncio.wait_for(scenario(), 550))
    assert summary.ok and len(set(pids)) == 3
    found = {
        int(path.stem): Image.open(path).convert("RGB").getpixel((9, 9))[2] for path in (tmp_path / "out").glob("*.png")
    }
    assert found == {colour: colour for colour in range(1, 25)}
    assert json.loads(Image.open(tmp_path / "out" / "7.png").info["prompt"])["1"]["inputs"]["color"] == 7
    assert not ray.is_initialized() and all(map(gone, pids)), "a ComfyUI is left behind"


def test_a_plan_needs_servers_or_ray(tmp_path):
    with pytest.raises(PlanMistake, match="or `ray`"):
        asyncio.run(run_async(Plan.make({"workflow": "x", "jobs": {"a": 1}}, tmp_path)))
