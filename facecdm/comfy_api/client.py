"""The API of one ComfyUI server, asynchronous.

    async with Client("127.0.0.1:8188") as client:
        name = await client.upload(Path("me.jpg"))
        job = await client.submit(workflow.set("Reference", "image", name))
        finished = await client.wait(job, on_progress=print)
        data = await client.fetch(finished.images()[0])

The web socket only carries progress and wakes the waiting early; whether a job has ended is always asked of
/history, so a socket that drops costs nothing. Only the address given is contacted: no redirects, no proxies.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import BadAnswer, JobLost, ServerUnreachable, WorkflowRejected
from .history import Finished, Output, read_entry, rejection
from .names import sanitise_filename
from .workflow import Workflow

MEBI = 1 << 20


@dataclass(frozen=True)
class Progress:
    """One step forward of a job: `value` of `maximum` in node `node` (0 of 0 when the node just began)."""

    prompt_id: str
    node: str
    value: int
    maximum: int


OnProgress = Callable[[Progress], None]


class Client:
    """Use as an async context manager. One client may wait for many jobs at once."""

    def __init__(self, address: str, *, patience: float = 20.0, answer_limit: int = 256 * MEBI, client_id: str = ""):
        """`address` is host:port or a URL; `patience`: seconds to ask an unreachable server again.

        Progress of a job is told to whoever has the `client_id` that queued it (a new one where none is given).
        """
        url = address if "://" in address else f"http://{address}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerUnreachable(f"{address!r} is no server address: write host:port or http://host:port")
        self.url = url.rstrip("/")
        self.patience = patience
        self.answer_limit = answer_limit
        self.client_id = client_id or uuid.uuid4().hex
        self._watchers: dict[str, tuple[OnProgress | None, asyncio.Event]] = {}

    async def __aenter__(self) -> "Client":
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)  # ws_connect knows no allow_redirects
        self._session = aiohttp.ClientSession(timeout=timeout, trace_configs=[tracing])
        self._connected = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
        await self._session.close()

    # ---- what a caller does ------------------------------------------------------------------------------

    async def upload(self, picture: Path | bytes, name: str | None = None, subfolder: str = "") -> str:
        """Puts a picture into the server's input folder; returns the name that LoadImage takes.

        A picture that is there already under that name is not stored again; another one gets a new name.
        """
        import aiohttp

        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        name = sanitise_filename(name or (Path(picture).name if not isinstance(picture, bytes) else "picture.png"))
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name)
        form.add_field("type", "input")
        form.add_field("subfolder", subfolder)
        answer = await self._json("POST", "/upload/image", data=form)
        if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
            raise BadAnswer(f"{self.url} did not say under which name it stored {name}")
        folder = answer.get("subfolder") or ""
        return f"{folder}/{answer['name']}" if folder else answer["name"]

    async def submit(self, workflow: Workflow, *, prompt_id: str | None = None, extra: dict | None = None) -> str:
        """Queues a workflow; returns the job's id (yours, where you give one).

        Raises WorkflowRejected where *any* output node has a mistake: the server would run the rest.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": workflow.nodes, "client_id": self.client_id, "prompt_id": prompt_id}
        if extra:
            body["extra_data"] = {"extra_pnginfo": extra}
        # Progress is nice to have: a server without a web socket is used all the same.
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._connected.wait(), 2)
        answer = await self._json("POST", "/prompt", json=body, accept=(200, 400))
        if mistakes := rejection(answer):
            if isinstance(answer, dict) and "prompt_id" in answer:
                await self.cancel(answer["prompt_id"])
            raise WorkflowRejected(mistakes)
        if not isinstance(answer, dict) or not isinstance(answer.get("prompt_id"), str):
            raise BadAnswer(f"{self.url} queued no job and gave no reason")
        return answer["prompt_id"]

    async def wait(
        self, prompt_id: str, on_progress: OnProgress | None = None, timeout: float | None = None
    ) -> Finished:
        """Waits for its end. Raises JobFailed, JobInterrupted, JobLost, ServerUnreachable, TimeoutError."""
        wake = asyncio.Event()
        self._watchers[prompt_id] = (on_progress, wake)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                wake.clear()
                if (finished := await self.finished(prompt_id)) is not None:
                    return finished
                if not await self.knows(prompt_id):
                    # It may have ended between the two questions.
                    if (finished := await self.finished(prompt_id)) is not None:
                        return finished
                    raise JobLost(f"{self.url} does not know job {prompt_id} (any more): queue it again")
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"job {prompt_id} took longer than {timeout:g} s")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(wake.wait(), 1.0)
        finally:
            self._watchers.pop(prompt_id, None)

    async def run(self, workflow: Workflow, on_progress: OnProgress | None = None) -> Finished:
        """submit, then wait; a job whose waiting is cancelled is interrupted."""
        prompt_id = str(uuid.uuid4())
        self._watchers[prompt_id] = (on_progress, asyncio.Event())  # a quick job is over before submit has its answer
        try:
            await self.submit(workflow, prompt_id=prompt_id)
        except BaseException:
            del self._watchers[prompt_id]
            raise
        try:
            return await self.wait(prompt_id, on_progress)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self.cancel(prompt_id)
            raise

    async def finished(self, prompt_id: str) -> Finished | None:
        """The job's result, None while it is not at its end; raises like `wait`."""
        answer = await self._json("GET", f"/history/{prompt_id}")
        if not isinstance(answer, dict):
            raise BadAnswer(f"{self.url} gave no readable history")
        return read_entry(prompt_id, answer[prompt_id]) if prompt_id in answer else None

    async def fetch(self, output: Output, limit: int = 256 * MEBI) -> bytes:
        """The bytes of a file that a job made; raises BadAnswer where it has more than `limit` of them."""
        names = {"filename": output.filename, "subfolder": output.subfolder, "type": output.type}
        return await self._request("GET", "/view", params=names, limit=limit)

    async def cancel(self, prompt_id: str) -> None:
        """Takes a job from the queue, or interrupts it where it runs."""
        await self._request("POST", "/queue", json={"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    async def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupts this job if it runs; with None whatever runs."""
        await self._request("POST", "/interrupt", json={"prompt_id": prompt_id} if prompt_id else {})

    async def object_info(self) -> dict[str, Any]:
        """Every node class of the server with its inputs: what workflows are checked against."""
        return await self._json("GET", "/object_info")

    async def system_stats(self) -> dict[str, Any]:
        return await self._json("GET", "/system_stats")

    async def knows(self, prompt_id: str) -> bool:
        """Whether the job runs or waits there; one that has ended is asked of `finished`."""
        queue = await self._json("GET", "/queue")
        try:
            return any(item[1] == prompt_id for items in queue.values() for item in items)
        except (AttributeError, TypeError, LookupError) as error:
            raise BadAnswer(f"{self.url} gave no readable queue") from error

    # ---- how it is done ----------------------------------------------------------------------------------

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        data = await self._request(method, path, **options)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self.url}{path} did not answer in JSON: is it a ComfyUI?") from error

    async def _request(
        self,
        method: str,
        path: str,
        accept: tuple[int, ...] = (200,),
        limit: int | None = None,
        **options: Any,
    ) -> bytes:
        """One question. Reading is asked again while the server is unreachable, for `patience` seconds.

        Posts are not repeated, save where the connection itself was refused: nothing was done then.
        """
        import aiohttp

        give_up = time.monotonic() + self.patience
        while True:
            try:
                return await self._ask(method, path, accept, limit or self.answer_limit, options)
            except (aiohttp.ClientConnectionError, asyncio.TimeoutError, aiohttp.ClientPayloadError) as error:
                repeatable = method == "GET" or isinstance(error, aiohttp.ClientConnectorError)
                if not repeatable or time.monotonic() > give_up:
                    raise ServerUnreachable(
                        f"no ComfyUI answers at {self.url} ({error or type(error).__name__}): is it running?"
                    ) from error
                await asyncio.sleep(0.3)
            except aiohttp.ClientError as error:
                raise BadAnswer(f"{self.url}{path} did not answer as a web server does: {error!r}") from error

    async def _ask(self, method: str, path: str, accept: tuple[int, ...], limit: int, options: dict) -> bytes:
        async with self._session.request(method, self.url + path, allow_redirects=False, **options) as response:
            data = bytearray()
            async for chunk in response.content.iter_chunked(MEBI):
                data += chunk
                if len(data) > limit:
                    raise BadAnswer(f"{self.url}{path} answered with more than {limit / MEBI:.0f} MiB")
            if response.status not in accept:
                raise BadAnswer(f"{self.url}{path} answered {response.status}: {bytes(data[:200])!r}")
            return bytes(data)

    async def _listen(self) -> None:
        """Keeps a web socket open as long as the client lives."""
        import aiohttp

        url = f"{self.url.replace('http', 'ws', 1)}/ws"
        while True:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                async with self._session.ws_connect(
                    url, params={"clientId": self.client_id}, max_msg_size=64 * MEBI, heartbeat=30
                ) as socket:
                    self._socket = socket
                    self._connected.set()
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                                self._hear(json.loads(message.data))
            self._connected.clear()
            for _, wake in self._watchers.values():
                wake.set()
            await asyncio.sleep(0.5)

    def _hear(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message["data"]
        on_progress, wake = self._watchers.get(data.get("prompt_id"), (None, None))
        if wake is None:
            return
        if kind == "executing" and data["node"] is None or kind in ("execution_error", "execution_interrupted"):
            wake.set()
        elif on_progress and kind == "executing":
            on_progress(Progress(data["prompt_id"], str(data["node"]), 0, 0))
        elif on_progress and kind == "progress":
            on_progress(Progress(data["prompt_id"], str(data["node"]), int(data["value"]), int(data["max"])))


async def _refuse_redirect(*_: Any) -> None:
    import aiohttp

    raise aiohttp.ClientError("the server sends us elsewhere: only the address given is contacted")
