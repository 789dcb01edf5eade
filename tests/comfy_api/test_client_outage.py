"""A server that goes away and returns while a job runs; played by a small stand-in."""

import asyncio

import pytest
from aiohttp import web

from facecdm.comfy_api.client import Client
from facecdm.comfy_api.errors import JobFailed, JobLost, ServerUnreachable


class StandIn:
    """As much of ComfyUI's API as waiting needs, without a web socket."""

    def __init__(self):
        self.queue: list[str] = ["job"]
        self.history: dict[str, dict] = {}

    async def up(self, port: int = 0) -> int:
        app = web.Application()
        app.router.add_get("/history/{id}", self.get_history)
        app.router.add_get("/queue", self.get_queue)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port)
        await site.start()
        return self.runner.addresses[0][1]

    async def down(self):
        await self.runner.cleanup()

    async def get_history(self, request):
        name = request.match_info["id"]
        return web.json_response({name: self.history[name]} if name in self.history else {})

    async def get_queue(self, request):
        return web.json_response({"queue_running": [[0, name] for name in self.queue], "queue_pending": []})

    def end(self, status="success", messages=()):
        self.queue.clear()
        self.history["job"] = {"status": {"status_str": status, "messages": list(messages)}, "outputs": {}}


def run_scenario(scenario, patience=20.0):
    async def main():
        server = StandIn()
        port = await server.up()
        try:
            async with Client(f"127.0.0.1:{port}", patience=patience) as client:
                waiting = asyncio.create_task(client.wait("job"))
                await asyncio.sleep(0.2)
                await scenario(server, port)
                return await waiting
        finally:
            await server.down()

    return asyncio.run(asyncio.wait_for(main(), 120))


def test_an_outage_shorter_than_the_patience():
    async def scenario(server, port):
        await server.down()
        await asyncio.sleep(1.5)
        await server.up(port)
        server.end()

    assert run_scenario(scenario).prompt_id == "job"


def test_a_server_that_stays_away():
    async def scenario(server, port):
        await server.down()

    with pytest.raises(ServerUnreachable, match="is it running"):
        run_scenario(scenario, patience=0.5)


def test_a_server_that_returns_without_its_queue():
    async def scenario(server, port):
        await server.down()
        server.queue.clear()
        await server.up(port)

    with pytest.raises(JobLost):
        run_scenario(scenario)


def test_a_failure_during_the_wait():
    async def scenario(server, port):
        server.end("error", [["execution_error", {"node_id": "1", "node_type": "K", "exception_message": "no"}]])

    with pytest.raises(JobFailed, match=r"node 1 \(K\) failed: no"):
        run_scenario(scenario)
