"""Servers that lie, stall and redirect."""

import io
import time

import pytest
from PIL import Image
from standin import exactly, made, make_plan, picture_of

from facecdm.apps.batch.errors import NoServerLeft
from facecdm.apps.batch.start import run_async
from facecdm.comfy_api.transport import Transport


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "C:\\x.png", "x\0.png", "con.png", "x" * 5000 + ".png"])
def test_file_names_of_a_server_do_not_reach_the_disk(run_scenario, tmp_path, name):
    async def scenario(server):
        server.behave = lambda nodes: [(name, picture_of(nodes))]
        return await run_async(make_plan(tmp_path, server.address, seeds=2, attempts=1))

    summary = run_scenario(scenario)
    assert made(tmp_path) == (exactly(2) if summary.ok else {})
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("outputs", "message"),
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
def test_invalid_outputs(run_scenario, tmp_path, outputs, message):
    async def scenario(server):
        server.behave = lambda nodes: outputs if nodes["1"]["inputs"]["seed"] == 1 else None
        return await run_async(make_plan(tmp_path, server.address, seeds=3, attempts=2, file_limit=1))

    summary = run_scenario(scenario)
    assert list(summary.set_aside) == [2] and message in summary.set_aside[2]
    assert made(tmp_path) == {0: 0, 2: 2}


def test_executable_suffixes_are_replaced(run_scenario, tmp_path):
    async def scenario(server):
        server.behave = lambda nodes: [("run.exe", b"MZ"), ("film.mp4", b"film"), ("run.py", b"print()")]
        return await run_async(make_plan(tmp_path, server.address, seeds=1))

    run_scenario(scenario)
    assert {path.name for path in (tmp_path / "out").glob("0*")} == {"0.bin", "0-2.mp4", "0-3.bin"}


def test_only_the_named_servers_are_contacted(run_scenario, tmp_path):
    """One server redirects everything to the other, which gets no request."""
    from aiohttp import web

    async def scenario(one, other):
        async def elsewhere(request):
            raise web.HTTPTemporaryRedirect(f"http://{other.address}{request.path_qs}")

        one._object_info = one._ws = elsewhere
        await one.down()
        await one.up()
        with pytest.raises(NoServerLeft, match="answered 307"):
            await run_async(make_plan(tmp_path, one.address))
        return one.requests, other.requests

    asked, redirected = run_scenario(scenario, 2)
    assert "GET /object_info" in asked and redirected == []


# ---- servers that stall ----


def stall_first(kind: str):
    """StandIn.delay: the first request of a kind is not answered, nor the same GET later."""
    requests: list[str] = []

    def delay(request: str) -> float:
        if not request.startswith(kind):
            return 0
        requests.append(request)
        return 600 if len(requests) == 1 or request == requests[0] and request.startswith("GET") else 0

    return delay


@pytest.mark.parametrize("kind", ["POST /prompt", "GET /history/", "GET /view"])
def test_a_stall_costs_a_job_no_more_than_its_timeout(run_scenario, tmp_path, kind):
    async def scenario(server):
        server.delay = stall_first(kind)
        started = time.monotonic()
        summary = await run_async(make_plan(tmp_path, server.address, seeds=4, attempts=1, timeout=4))
        return summary, time.monotonic() - started

    summary, seconds = run_scenario(scenario)
    assert list(summary.set_aside.values()) == ["it took longer than 4 s"]
    assert summary.done == 3 == len(made(tmp_path)) and seconds < 60


def test_a_stalled_upload_costs_a_job_no_more_than_its_timeout(run_scenario, tmp_path):
    for name in ("ada", "bob"):
        Image.new("RGB", (8, 8), name == "ada" and "red" or "blue").save(tmp_path / f"{name}.png")

    async def scenario(server):
        server.delay = stall_first("POST /upload")
        plan = make_plan(
            tmp_path,
            server.address,
            name="{job}",
            inputs={"person": "Draw it.image"},
            jobs={"person": ["ada.png", "bob.png"]},
            attempts=1,
            timeout=4,
        )
        return await run_async(plan)

    assert run_scenario(scenario).set_aside == {1: "it took longer than 4 s"}


@pytest.mark.parametrize("kind", ["GET /history/", "GET /view"])
def test_without_a_timeout_a_stalled_job_is_set_aside_too(run_scenario, tmp_path, monkeypatch, kind):
    """A stalled /view fails an attempt; a stalled /history is a loss, and after the first one the id is another."""
    monkeypatch.setattr(Transport, "answer_seconds", 1)
    monkeypatch.setattr(Transport, "transfer_seconds", 1)

    def stall_seed_1(server):
        def delay(request):
            bad = [prompt_id for prompt_id, nodes in ids.items() if nodes["1"]["inputs"]["seed"] == 1]
            return 600 if request.startswith(kind) and any(prompt_id in request for prompt_id in bad) else 0

        ids = {}
        real = server._prompt

        async def prompt(request):
            body = await request.json()
            ids[body["prompt_id"]] = body["prompt"]
            return await real(request)

        server._prompt, server.delay = prompt, delay

    async def scenario(server):
        stall_seed_1(server)
        await server.down()
        await server.up()
        return await run_async(make_plan(tmp_path, server.address, seeds=4, patience=0.1))

    summary = run_scenario(scenario)
    reason = "took longer than 1 s" if kind == "GET /view" else "went away 5 times"
    assert list(summary.set_aside) == [2] and reason in summary.set_aside[2] and summary.done == 3
    assert made(tmp_path) == {0: 0, 2: 2, 3: 3}


def test_a_server_that_sends_byte_by_byte_is_given_up(run_scenario, tmp_path, monkeypatch):
    monkeypatch.setattr(Transport, "answer_seconds", 0.3)

    async def scenario(server):
        server.drip = ("/object_info",)
        with pytest.raises(NoServerLeft):
            await run_async(make_plan(tmp_path, server.address, patience=0.1))

    run_scenario(scenario)


def test_an_eps_file_does_not_start_ghostscript(run_scenario, tmp_path, monkeypatch):
    """Pillow opens EPS by content, whatever the name, and starts Ghostscript for it."""
    from PIL import EpsImagePlugin

    calls = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: calls.append(1) or Image.new("RGB", (8, 8)))
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "eps")

    async def scenario(server):
        server.behave = lambda nodes: [("a.png", eps.getvalue())]
        return await run_async(make_plan(tmp_path, server.address, seeds=1, attempts=1))

    summary = run_scenario(scenario)
    assert "cannot be read" in summary.set_aside[1] and not calls
