"""Servers that stall, drip and send what no server should: requests end, messages stay short, the listener goes on."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from standin import StandIn

from facecdm.comfy_api.client import Client
from facecdm.comfy_api.errors import BadAnswer, JobFailed, ServerUnreachable, WorkflowRejected
from facecdm.comfy_api.history import Output, read_entry
from facecdm.comfy_api.transport import Transport
from facecdm.comfy_api.workflow import Workflow

FILE = Output("2", "images", "x.png", "", "output")
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(Transport, "answer_seconds", 0.5)
    monkeypatch.setattr(Transport, "transfer_seconds", 0.5)


def send_request(request, **misbehaviour):
    """The result of one request to a stand-in, and the seconds that it took."""

    async def main():
        server = StandIn()
        vars(server).update(misbehaviour)
        await server.up()
        try:
            async with Client(server.address, patience=0.1) as client:
                started = time.monotonic()
                try:
                    return await request(client), 0
                except Exception as error:
                    return error, time.monotonic() - started
        finally:
            await server.down()

    return asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.parametrize("misbehaviour", [{"drip": ("/",)}, {"delay": lambda request: 60}], ids=["drip", "stall"])
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (lambda client: client.finished("x"), ServerUnreachable),
        (lambda client: client.is_queued("x"), ServerUnreachable),
        (lambda client: client.cancel("x"), ServerUnreachable),
        (lambda client: client.object_info(), ServerUnreachable),
        (lambda client: client.fetch(FILE), BadAnswer),
        (lambda client: client.upload(b"x", "x.png"), BadAnswer),
    ],
    ids=["history", "queue", "cancel", "object_info", "view", "upload"],
)
def test_every_request_has_a_deadline(impatient, misbehaviour, request_, expected):
    error, seconds = send_request(request_, **misbehaviour)
    assert isinstance(error, expected) and seconds < 30 and len(str(error)) <= 1000


def test_wait_takes_no_longer_than_its_timeout():
    error, seconds = send_request(lambda client: client.wait("x", timeout=0.5), drip=("/history",))
    assert isinstance(error, TimeoutError) and seconds < 30


@pytest.mark.parametrize("answer", [DEEP, '{"x": ' * 99 + "1" + "}" * 99, "\ud800".encode("utf-8", "surrogatepass")])
def test_invalid_or_deep_json(answer):
    async def send(request):
        return web.Response(body=answer if isinstance(answer, bytes) else answer.encode())

    error, _ = send_request(lambda client: client.object_info(), _object_info=send)
    assert isinstance(error, BadAnswer) and len(str(error)) <= 1000


def test_the_listener_survives_every_message():
    messages = [
        DEEP,
        "no json",
        "[]",
        "7",
        '{"type": "progress", "data": {"prompt_id": "job", "node": "1", "value": Infinity, "max": 2}}',
        '{"type": "progress", "data": {"prompt_id": "job", "node": "1", "value": NaN, "max": 2}}',
        '{"type": "progress", "data": {"prompt_id": "job", "node": "1", "value": 1, "max": ' + "9" * 4000 + "}}",
        '{"type": "progress", "data": {"prompt_id": ["job"], "node": "1", "value": 1, "max": 2}}',
        '{"type": "executing", "data": null}',
        json.dumps({"type": "progress", "data": {"prompt_id": "job", "node": "x" * 2**20, "value": "a", "max": 2}}),
    ]

    async def main():
        server, steps = StandIn(), []
        server.queue, server.seconds = [("job", {"1": {"inputs": {"seed": 1}}}, "me")], 60
        await server.up()
        try:
            async with Client(server.address, client_id="me") as client:
                waiting = asyncio.create_task(client.wait("job", steps.append))
                while "me" not in server.sockets:
                    await asyncio.sleep(0.01)
                first = server.sockets["me"]
                for message in messages:
                    await first.send_str(message)
                await server._send("me", "progress", {"prompt_id": "job", "node": "1", "value": 1, "max": 2})
                while not steps:
                    await asyncio.sleep(0.01)
                assert server.sockets["me"] is first, "the listener had to connect again"
                waiting.cancel()
        finally:
            await server.down()
        return steps

    (step,) = asyncio.run(asyncio.wait_for(main(), 120))
    assert (step.value, step.maximum) == (1, 2)


def test_a_callback_that_raises_does_not_end_the_listener():
    def fail(step):
        calls.append(step)
        raise RuntimeError

    async def main():
        server = StandIn()
        await server.up()
        try:
            async with Client(server.address) as client:
                nodes = {"1": {"class_type": "Draw", "inputs": {"seed": 1}}}
                await client.run(Workflow.parse(nodes), fail)
        finally:
            await server.down()

    calls = []
    asyncio.run(asyncio.wait_for(main(), 120))
    assert len(calls) == 2


def test_messages_of_a_megabyte_are_cut():
    data = {
        "node_id": "n" * 2**20,
        "node_type": "t" * 2**20,
        "exception_message": "m" * 2**20,
        "traceback": ["x" * 2**20],
    }
    with pytest.raises(JobFailed) as caught:
        read_entry("id", {"status": {"status_str": "error", "messages": [["execution_error", data]]}, "outputs": {}})
    assert len(str(caught.value)) <= 1000 and len(caught.value.traceback) <= 20_000
    error = WorkflowRejected([f"node {number}: " + "x" * 2**20 for number in range(50)])
    assert len(str(error)) <= 1000 and len(error.mistakes) == 50


@pytest.mark.parametrize("timestamp", [float("inf"), float("nan"), 10**400, "x"])
def test_invalid_times(timestamp):
    messages = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": timestamp}]]
    entry = {"status": {"status_str": "success", "messages": messages}, "outputs": {}}
    assert read_entry("id", entry).seconds is None


def test_warnings_of_a_sampler_belong_to_the_job_that_ran():
    """They carry no id, and the second job runs before anybody waits for it."""

    async def main():
        server = StandIn()
        server.warn = lambda nodes: [f"seed {nodes['1']['inputs']['seed']}" + "!" * 2000, 7]
        await server.up()
        try:
            async with Client(server.address) as client:
                nodes = {"1": {"class_type": "Draw", "inputs": {"seed": 1}}}
                ids = [
                    await client.submit(Workflow.parse(nodes).set("Draw", "seed", seed), prompt_id=f"job-{seed}")
                    for seed in (1, 2)
                ]
                while len(server.history) < 2:
                    await asyncio.sleep(0.01)
                return [(await client.wait(name)).warnings() for name in ids], client._listener.warnings
        finally:
            await server.down()

    found, left = asyncio.run(asyncio.wait_for(main(), 120))
    assert [[text[:7] for text in texts] for texts in found] == [["seed 1!"], ["seed 2!"]] and not left
    assert all(len(text) <= 1000 for texts in found for text in texts)
