"""The client against a real ComfyUI, with core nodes, and against hostile servers."""

import asyncio
import io
import socket
import time
import uuid

import pytest
from PIL import Image

from facecdm.comfy_api.client import Client
from facecdm.comfy_api.errors import (
    BadAnswer,
    JobFailed,
    JobInterrupted,
    JobLost,
    ServerUnreachable,
    WorkflowRejected,
)
from facecdm.comfy_api.listener import Listener
from facecdm.comfy_api.transport import Transport
from facecdm.comfy_api.workflow import Workflow


def a_colour() -> int:
    """A different one on each call, so that the server's cache has none."""
    return time.time_ns() // 1000 % 2**24


def picture(**changed) -> Workflow:
    """EmptyImage → SaveImage; `changed` goes to EmptyImage."""
    inputs = {"width": 64, "height": 32, "batch_size": 1, "color": 0xFF8800, **changed}
    return Workflow.parse(
        {
            "1": {"class_type": "EmptyImage", "inputs": inputs},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "client/x"}},
        }
    )


def slow() -> Workflow:
    """A job of many seconds that can be interrupted often: images sharpened sixty times."""
    nodes = {
        "0": {
            "class_type": "EmptyImage",
            "inputs": {"width": 512, "height": 512, "batch_size": 8, "color": a_colour()},
        }
    }
    for step in range(60):
        nodes[f"s{step}"] = {
            "class_type": "ImageSharpen",
            "inputs": {
                "image": ["0" if step == 0 else f"s{step - 1}", 0],
                "sharpen_radius": 15,
                "sigma": 3.0,
                "alpha": 1.0,
            },
        }
    nodes["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["s59", 0]}}
    return Workflow.parse(nodes)


def with_client(server, job, **options):
    async def main():
        async with Client(server.address, **options) as client:
            return await job(client)

    return asyncio.run(asyncio.wait_for(main(), 300))


def test_a_picture_is_made_and_fetched(server):
    async def job(client):
        finished = await client.run(picture())
        return finished.images("2"), await client.fetch(finished.images()[0])

    (output,), data = with_client(server, job)
    made = Image.open(io.BytesIO(data))
    assert made.size == (64, 32) and made.getpixel((0, 0)) == (255, 136, 0)
    assert output.subfolder == "client" and output.type == "output"


def test_an_upload_is_stored_once_per_content(server, tmp_path):
    path = tmp_path / "me.png"
    Image.new("RGB", (8, 8), "red").save(path)

    async def job(client):
        first, again = await client.upload(path), await client.upload(path)
        Image.new("RGB", (8, 8), "blue").save(path)
        other = await client.upload(path)
        loaded = Workflow.parse(
            {
                "1": {"class_type": "LoadImage", "inputs": {"image": other}},
                "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "up"}},
            }
        )
        return first, again, other, await client.fetch((await client.run(loaded)).images()[0])

    first, again, other, data = with_client(server, job)
    assert first == again == "me.png" and other == "me (1).png"
    assert Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_a_wrong_value_is_rejected_with_its_node(server):
    with pytest.raises(WorkflowRejected, match=r"node 1 \(EmptyImage\): .*width") as caught:
        with_client(server, lambda client: client.run(picture(width=-5)))
    assert len(caught.value.mistakes) == 1


def test_an_unknown_node_is_rejected(server):
    lost = Workflow.parse({"1": {"class_type": "NoSuchNode", "inputs": {}}})
    with pytest.raises(WorkflowRejected, match="NoSuchNode"):
        with_client(server, lambda client: client.run(lost))


def test_half_a_workflow_is_not_run(server):
    """The server answers 200 and runs the valid half; the client cancels it and raises."""
    nodes = dict(picture(color=a_colour()).nodes)
    nodes["3"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 0, "height": 1, "batch_size": 1, "color": 0},
    }
    nodes["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "bad"}}
    with pytest.raises(WorkflowRejected, match=r"node 3 \(EmptyImage\)"):
        with_client(server, lambda client: client.run(Workflow.parse(nodes)))


def test_a_node_that_raises(server):
    odd = Workflow.parse(
        {
            "6": {"class_type": "LoadImageMask", "inputs": {"image": "broken.png", "channel": "red"}},
            "7": {"class_type": "MaskToImage", "inputs": {"mask": ["6", 0]}},
            "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
        }
    )
    (server.base / "input" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(JobFailed, match="cannot identify image file") as caught:
        with_client(server, lambda client: client.run(odd))
    assert (caught.value.node_id, caught.value.node_type) == ("6", "LoadImageMask")
    assert "Traceback" in caught.value.traceback or "File" in caught.value.traceback


def test_progress_names_the_nodes(server):
    steps = []
    with_client(server, lambda client: client.run(picture(color=a_colour()), steps.append))
    assert {step.node for step in steps} >= {"1", "2"}


def test_progress_of_a_job_that_ends_before_its_id_arrives(server, monkeypatch):
    real = Transport.json

    async def late(self, method, path, **options):
        answer = await real(self, method, path, **options)
        await asyncio.sleep(1 if path == "/prompt" else 0)
        return answer

    async def job():
        async with Client(server.address) as client:
            await client.run(picture(color=a_colour()), steps.append)
            assert not client._listener.watchers

    steps = []
    monkeypatch.setattr(Transport, "json", late)
    asyncio.run(job())
    assert {step.node for step in steps} >= {"1", "2"}


def test_a_running_job_is_interrupted(server):
    async def job(client):
        prompt_id = await client.submit(slow())
        waiting = asyncio.create_task(client.wait(prompt_id))
        await asyncio.sleep(1)
        await client.cancel(prompt_id)
        await waiting

    with pytest.raises(JobInterrupted):
        with_client(server, job)


def test_a_cancelled_wait_ends_the_job_on_the_server(server):
    async def job(client):
        task = asyncio.create_task(client.run(slow()))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while await client._transport.json("GET", "/queue") != {"queue_running": [], "queue_pending": []}:
            await asyncio.sleep(0.2)

    with_client(server, job)


def test_a_dropped_web_socket_loses_nothing(server):
    async def job(client):
        prompt_id = await client.submit(picture(width=640, color=a_colour()))
        await client._listener.socket.close()
        first = await client.wait(prompt_id)
        while not client._listener.connected.is_set() or client._listener.socket.closed:
            await asyncio.sleep(0.1)  # until it connects again by itself
        steps = []
        await client.run(picture(width=320, color=a_colour()), steps.append)
        return first, steps

    first, steps = with_client(server, job)
    assert len(first.images()) == 1 and steps


def test_a_server_without_web_socket(server, monkeypatch):
    async def never(self):
        await asyncio.Event().wait()

    monkeypatch.setattr(Listener, "_listen", never)
    assert with_client(server, lambda client: client.run(picture(height=16))).images()


def test_a_job_that_the_server_forgot(server):
    with pytest.raises(JobLost, match="queue it again"):
        with_client(server, lambda client: client.wait("no-such-job"))


def test_a_given_job_id_is_kept(server):
    """Newer servers take a UUID only."""
    name = str(uuid.uuid4())

    async def job(client):
        return await client.submit(picture(height=24), prompt_id=name), await client.wait(name)

    submitted, finished = with_client(server, job)
    assert submitted == finished.prompt_id == name


def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    async def job():
        async with Client(address, patience=0.5) as client:
            await client.system_stats()

    with pytest.raises(ServerUnreachable, match="is it running"):
        asyncio.run(job())


def test_a_web_socket_is_not_redirected():
    """A server redirects /ws; the other one gets no request."""
    requests = []

    async def redirect(reader, writer):
        line = await reader.readuntil(b"\r\n\r\n")
        where = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}/ws"
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
        requests.append(line.split()[1].partition(b"?")[0])
        writer.close()

    async def elsewhere(reader, writer):
        requests.append(b"elsewhere")
        writer.close()

    async def job():
        nonlocal other
        other = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
        async with await asyncio.start_server(redirect, "127.0.0.1", 0) as first:
            async with Client(f"127.0.0.1:{first.sockets[0].getsockname()[1]}"):
                while len(requests) < 2:
                    await asyncio.sleep(0.05)
        other.close()

    other = None
    asyncio.run(asyncio.wait_for(job(), 120))
    assert set(requests) == {b"/ws"}


@pytest.mark.parametrize("address", ["", "ftp://x", "http://", "http://[::1", "127.0.0.1:99999", "127.0.0.1:http"])
def test_invalid_addresses(address):
    with pytest.raises(ServerUnreachable, match="is no server address"):
        Client(address)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "did not answer in JSON"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300000, "more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "no readable history"),
    ],
)
def test_answers_that_are_not_comfyuis(answer, message):
    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def job():
        async with await asyncio.start_server(respond, "127.0.0.1", 0) as hostile:
            port = hostile.sockets[0].getsockname()[1]
            async with Client(f"127.0.0.1:{port}", answer_limit=100_000) as client:
                await client.finished("x")

    with pytest.raises(BadAnswer, match=message):
        asyncio.run(asyncio.wait_for(job(), 120))
