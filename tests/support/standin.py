"""A stand-in for ComfyUI that can misbehave, and plans for it."""

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facecdm.apps.batch.plan import Plan

INFO = {
    "Draw": {
        "input": {
            "required": {
                "seed": ["INT", {"min": 0, "max": 1000}],
                "text": ["STRING", {"multiline": True}],
                "style": [["plain", "striped"]],
                "model_name": ["COMBO", {"options": ["small.safetensors", "large.safetensors"]}],
                "image": [["old.png"], {"image_upload": True}],
            },
            "optional": {"strength": ["FLOAT", {"min": 0.0, "max": 1.0}], "flip": ["BOOLEAN", {}]},
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
    "Save": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
}
NODES = {
    "1": {
        "class_type": "Draw",
        "_meta": {"title": "Draw it"},
        "inputs": {"seed": 0, "text": "", "style": "plain", "model_name": "small.safetensors", "image": "old.png"},
    },
    "2": {"class_type": "Save", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def picture_of(nodes: dict[str, Any]) -> bytes:
    """A PNG with the workflow in its metadata and the seed in its pixels."""
    seed = nodes["1"]["inputs"]["seed"]
    meta = PngInfo()
    meta.add_text("prompt", json.dumps(nodes))
    data = io.BytesIO()
    Image.new("RGB", (16, 16), (seed % 256, seed // 256, 7)).save(data, "png", pnginfo=meta)
    return data.getvalue()


class StandIn:
    """As much of ComfyUI's API as a batch uses.

    seconds    that a job runs
    behave     nodes → None; may raise (the job fails), or return other outputs or a history entry
    warn       nodes → warnings that are sent over the web socket while the job runs
    delay      "METHOD path?query" of a request → seconds until it is answered
    drip       paths that are answered with one byte a second
    submitted  every prompt that was queued
    deleted    ids that were deleted from the queue
    uploads    names of uploaded files
    requests   "METHOD path" of every request
    """

    def __init__(self):
        self.info, self.seconds = INFO, 0.01
        self.behave: Callable[[dict], list[tuple[str, bytes]] | None] = lambda nodes: None
        self.warn: Callable[[dict], list[str]] = lambda nodes: []
        self.delay: Callable[[str], float] = lambda request: 0
        self.drip: tuple[str, ...] = ()
        self.submitted: list[dict] = []
        self.deleted: list[str] = []
        self.uploads: list[str] = []
        self.requests: list[str] = []
        self.port = 0
        self.forget()

    def forget(self):
        """Lose what a restart loses."""
        self.queue: list[tuple[str, dict, str]] = []
        self.history: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.unsent: asyncio.Event | None = None

    async def up(self):
        app = web.Application(middlewares=[self._log], client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/object_info", self._object_info),
                web.post("/prompt", self._prompt),
                web.get("/ws", self._ws),
                web.get("/queue", self._queue),
                web.post("/queue", self._delete),
                web.post("/interrupt", self._interrupt),
                web.get("/history/{id}", self._history),
                web.get("/view", self._view),
                web.post("/upload/image", self._upload),
            ]
        )
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]
        self.worker = asyncio.create_task(self._work())

    async def down(self, forget: bool = True):
        self.worker.cancel()
        for socket in list(self.sockets.values()):
            await socket.close()
        await self.runner.cleanup()
        if forget:
            self.forget()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @web.middleware
    async def _log(self, request, handler):
        self.requests.append(f"{request.method} {request.path}")
        await asyncio.sleep(self.delay(f"{request.method} {request.path_qs}"))
        if not self.drip or not request.path.startswith(self.drip):
            return await handler(request)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(1)

    async def _object_info(self, request):
        return web.json_response(self.info)

    async def _upload(self, request):
        form = await request.post()
        self.uploads.append(form["image"].filename)
        return web.json_response({"name": form["image"].filename, "subfolder": "", "type": "input"})

    async def _prompt(self, request):
        body = await request.json()
        self.submitted.append(body["prompt"])
        self.queue.append((body["prompt_id"], body["prompt"], body["client_id"]))
        return web.json_response({"prompt_id": body["prompt_id"], "number": 1, "node_errors": {}})

    async def _queue(self, request):
        return web.json_response({"queue_running": [[0, item[0]] for item in self.queue], "queue_pending": []})

    async def _delete(self, request):
        gone = (await request.json()).get("delete", [])
        self.deleted += gone
        self.queue = [item for item in self.queue if item[0] not in gone]
        return web.Response()

    async def _interrupt(self, request):
        return web.Response()

    async def _history(self, request):
        name = request.match_info["id"]
        return web.json_response({name: self.history[name]} if name in self.history else {})

    async def _view(self, request):
        return web.Response(body=self.files[request.query["filename"]])

    async def _ws(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        async for _ in socket:
            pass
        return socket

    async def _send(self, client: str, kind: str, data: dict):
        if client in self.sockets and not self.sockets[client].closed:
            await self.sockets[client].send_json({"type": kind, "data": data})

    async def _work(self):
        while True:
            await asyncio.sleep(0.005)
            if not self.queue:
                continue
            prompt_id, nodes, client = self.queue[0]
            for step in (1, 2):
                await asyncio.sleep(self.seconds / 2)
                await self._send(client, "progress", {"prompt_id": prompt_id, "node": "1", "value": step, "max": 2})
            if texts := self.warn(nodes):
                await self._send(client, "facecdm_warnings", {"node": "1", "warnings": texts})
            if not self.queue or self.queue[0][0] != prompt_id:
                continue  # deleted meanwhile
            self.queue.pop(0)
            self.history[prompt_id] = self._run(prompt_id, nodes)
            await self._send(client, "executing", {"prompt_id": prompt_id, "node": None})

    def _run(self, prompt_id: str, nodes: dict) -> dict:
        try:
            made = self.behave(nodes)
        except Exception as error:
            message = {"node_id": "1", "node_type": "Draw", "exception_message": str(error), "traceback": []}
            return {"status": {"status_str": "error", "messages": [["execution_error", message]]}, "outputs": {}}
        if isinstance(made, dict):
            return made
        images = []
        for name, data in made if made is not None else [(f"{prompt_id}.png", picture_of(nodes))]:
            self.files[name] = data
            images.append({"filename": name, "subfolder": "", "type": "output"})
        messages = [["execution_start", {"timestamp": 1000}], ["execution_success", {"timestamp": 3500}]]
        return {"status": {"status_str": "success", "messages": messages}, "outputs": {"2": {"images": images}}}


def make_plan(folder: Path, *addresses: str, seeds: int = 12, **changed) -> Plan:
    """A plan of `seeds` jobs; an image is named after its seed."""
    keys = {
        "workflow": NODES,
        "servers": list(addresses),
        "output": folder / "out",
        "patience": 0.5,
        "name": "{seed}",
        "inputs": {"seed": "Draw it.seed"},
        "jobs": [{"seed": {"from": 0, "count": seeds}}],
    }
    return Plan.make({**keys, **changed}, folder)


def made(folder: Path) -> dict[int, int]:
    """Seed in the name → seed in the pixels, of every image below a folder; other files are an error."""
    found = {}
    for path in (folder / "out").rglob("*"):
        if path.is_dir() or path.name in ("journal.sqlite", "results.csv") or "sheets" in path.parts:
            continue
        assert path.suffix == ".png", path
        red, green, _ = Image.open(path).convert("RGB").getpixel((0, 0))
        found[int(path.stem)] = red + 256 * green
    return found


def exactly(count: int) -> dict[int, int]:
    return {seed: seed for seed in range(count)}
