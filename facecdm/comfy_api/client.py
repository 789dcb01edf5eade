"""Asynchronous client for the API of one ComfyUI server.

    async with Client("127.0.0.1:8188") as client:
        name = await client.upload(Path("me.jpg"))
        job = await client.submit(workflow.set("Reference", "image", name))
        finished = await client.wait(job, on_progress=print)
        data = await client.fetch(finished.images()[0])

The web socket only carries progress and warnings of samplers, and ends a wait early. The end of a job is always read
from /history, so a dropped socket loses no result. Only the given address is contacted: no redirects, no proxies.
"""

import asyncio
import contextlib
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import BadAnswer, JobLost, WorkflowRejected
from .history import Finished, Output, read_entry, rejection
from .listener import Listener, OnProgress, Progress
from .names import sanitise_filename
from .transport import MEBI, Transport
from .workflow import Workflow

__all__ = ["MEBI", "Client", "OnProgress", "Progress"]


class Client:
    """Use as an async context manager. One client can wait for many jobs at once."""

    def __init__(self, address: str, *, patience: float = 20.0, answer_limit: int = 256 * MEBI, client_id: str = ""):
        """
        address       host:port or a URL
        patience      seconds for which a request to an unreachable server is repeated
        answer_limit  largest size of an answer, bytes
        client_id     id for queuing jobs; the server sends their progress to it; default: a new id
        """
        self._transport = Transport(address, patience, answer_limit)
        self.client_id = client_id or uuid.uuid4().hex

    @property
    def url(self) -> str:
        return self._transport.url

    async def __aenter__(self) -> "Client":
        await self._transport.__aenter__()
        self._listener = Listener(self._transport, self.client_id)
        self._listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.stop()
        await self._transport.__aexit__()

    # ---- files ----

    async def upload(self, picture: Path | bytes, name: str | None = None, subfolder: str = "") -> str:
        """Store a file in the server's input folder; return the name that LoadImage takes.

        The server stores equal content under the same name once. Different content gets a new name.
        """
        import aiohttp

        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        name = sanitise_filename(name or (Path(picture).name if not isinstance(picture, bytes) else "picture.png"))
        form = aiohttp.FormData()
        form.add_field("image", data, filename=name)
        form.add_field("type", "input")
        form.add_field("subfolder", subfolder)
        answer = await self._transport.json("POST", "/upload/image", data=form, transfer=True)
        if not isinstance(answer, dict) or not isinstance(answer.get("name"), str):
            raise BadAnswer(f"{self.url} did not say under which name it stored {name}")
        folder = answer.get("subfolder") or ""
        return f"{folder}/{answer['name']}" if folder else answer["name"]

    async def fetch(self, output: Output, limit: int = 256 * MEBI) -> bytes:
        """Fetch a job's file. Raises BadAnswer if it is larger than `limit` bytes or takes too long."""
        names = {"filename": output.filename, "subfolder": output.subfolder, "type": output.type}
        return await self._transport.bytes("GET", "/view", params=names, limit=limit, transfer=True)

    # ---- jobs ----

    async def submit(self, workflow: Workflow, *, prompt_id: str | None = None, extra: dict | None = None) -> str:
        """Queue a workflow; return the job's id: `prompt_id` if given, a UUID.

        Raises WorkflowRejected if *any* output node has a mistake; the server itself would run the others.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        body = {"prompt": workflow.nodes, "client_id": self.client_id, "prompt_id": prompt_id}
        if extra:
            body["extra_data"] = {"extra_pnginfo": extra}
        with contextlib.suppress(asyncio.TimeoutError):  # without a web socket there is no progress
            await asyncio.wait_for(self._listener.connected.wait(), 2)
        answer = await self._transport.json("POST", "/prompt", json=body, accept=(200, 400))
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
        """Wait for the end of a job.

        on_progress  called for each step; its exceptions are ignored
        timeout      seconds, including slow answers

        Raises JobFailed, JobInterrupted, JobLost, ServerUnreachable, BadAnswer, TimeoutError.
        """
        wake = asyncio.Event()
        self._listener.watchers[prompt_id] = (on_progress, wake)
        try:
            finished = await asyncio.wait_for(self._until_finished(prompt_id, wake), timeout)
            return replace(finished, sent=tuple(self._listener.warnings.get(prompt_id, ())))
        except asyncio.TimeoutError:
            raise TimeoutError(f"job {prompt_id} took longer than {timeout:g} s") from None
        finally:
            self._listener.watchers.pop(prompt_id, None)
            self._listener.warnings.pop(prompt_id, None)

    async def _until_finished(self, prompt_id: str, wake: asyncio.Event) -> Finished:
        while True:
            wake.clear()
            if (finished := await self.finished(prompt_id)) is not None:
                return finished
            if not await self.is_queued(prompt_id):
                # The job may have ended between the two requests.
                if (finished := await self.finished(prompt_id)) is not None:
                    return finished
                raise JobLost(f"{self.url} does not know job {prompt_id} (any more): queue it again")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(wake.wait(), 1.0)

    async def run(self, workflow: Workflow, on_progress: OnProgress | None = None) -> Finished:
        """Submit a workflow and wait for it. Cancelling this coroutine cancels the job."""
        prompt_id = str(uuid.uuid4())
        watchers = self._listener.watchers
        watchers[prompt_id] = (on_progress, asyncio.Event())  # a quick job may end before submit returns
        try:
            await self.submit(workflow, prompt_id=prompt_id)
        except BaseException:
            del watchers[prompt_id]
            raise
        try:
            return await self.wait(prompt_id, on_progress)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self.cancel(prompt_id)
            raise

    async def finished(self, prompt_id: str) -> Finished | None:
        """The job's result, or None until it has ended. Raises the errors of `wait`."""
        answer = await self._transport.json("GET", f"/history/{prompt_id}")
        if not isinstance(answer, dict):
            raise BadAnswer(f"{self.url} gave no readable history")
        return read_entry(prompt_id, answer[prompt_id]) if prompt_id in answer else None

    async def is_queued(self, prompt_id: str) -> bool:
        """Whether the job runs or waits. For an ended job call `finished`."""
        queue = await self._transport.json("GET", "/queue")
        try:
            return any(item[1] == prompt_id for items in queue.values() for item in items)
        except (AttributeError, TypeError, LookupError) as error:
            raise BadAnswer(f"{self.url} gave no readable queue") from error

    async def cancel(self, prompt_id: str) -> None:
        """Remove a job from the queue, or interrupt it if it runs."""
        await self._transport.bytes("POST", "/queue", json={"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    async def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt this job if it runs; None: interrupt any running job."""
        await self._transport.bytes("POST", "/interrupt", json={"prompt_id": prompt_id} if prompt_id else {})

    # ---- the server ----

    async def object_info(self) -> dict[str, Any]:
        """Inputs and outputs of every node class that the server has, by class."""
        return await self._transport.json("GET", "/object_info")

    async def system_stats(self) -> dict[str, Any]:
        return await self._transport.json("GET", "/system_stats")
