"""One server in a batch: its state, its uploads, and the run of one job from upload to fetched files."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ....comfy_api.client import MEBI, OnProgress, Progress
from ....comfy_api.errors import BadAnswer, JobFailed, JobInterrupted
from ....comfy_api.history import Finished, Output
from ....comfy_api.workflow import Workflow
from ....errors import FaceCDMError
from ..plan.jobs import Batch, prompt_of
from ..plan.rows import Upload
from .outputs import NoOutput, OutputFile, fetch_outputs
from .schedule import Task

STARTING, UP, AWAY, UNFIT = "starting", "up", "away", "unfit"
CANCELLING = 5  # seconds allowed for cancelling a job


class Connection(Protocol):
    """Interface that a batch needs from a server: comfy_api.client.Client, or a Ray worker."""

    async def __aenter__(self) -> "Connection": ...
    async def __aexit__(self, *_: object) -> None: ...
    async def object_info(self) -> dict[str, Any]: ...
    async def upload(self, picture: bytes, name: str) -> str: ...
    async def submit(self, workflow: Workflow, *, prompt_id: str) -> str: ...
    async def wait(self, prompt_id: str, on_progress: OnProgress | None, timeout: float | None) -> Finished: ...
    async def finished(self, prompt_id: str) -> Finished | None: ...
    async def is_queued(self, prompt_id: str) -> bool: ...
    async def fetch(self, output: Output, limit: int) -> bytes: ...
    async def cancel(self, prompt_id: str) -> None: ...


@dataclass
class Server:
    """
    name        address, or name of the Ray worker
    connection  its API
    state       STARTING, UP, AWAY (does not answer) or UNFIT (cannot run this plan)
    note        reason for AWAY or UNFIT
    done        number of jobs that it finished
    steps       job number → progress of each job on it
    moved       prompt ids of jobs that other servers took over while it was unreachable
    """

    name: str
    connection: Connection
    state: str = STARTING
    note: str = ""
    done: int = 0
    steps: dict[int, Progress | None] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    _names: dict[Path, str] = field(default_factory=dict)
    _uploading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """The server's /object_info, without unreadable entries."""
        info = await self.connection.object_info()
        if not isinstance(info, dict):
            raise BadAnswer(f"{self.name} lists no nodes")
        return {name: node for name, node in info.items() if isinstance(node, dict)}

    async def still_has(self, prompt_id: str) -> bool:
        """Whether the server still has a job: running, waiting, or ended with a result or an error."""
        try:
            finished = await self.connection.finished(prompt_id) is not None
            # A job that ends between the first two requests is in neither answer, so ask a third time.
            return (
                finished
                or await self.connection.is_queued(prompt_id)
                or (await self.connection.finished(prompt_id) is not None)
            )
        except JobFailed:
            return True
        except (JobInterrupted, BadAnswer):
            return False

    def forget_uploads(self) -> None:
        """Upload all files again: the server may have restarted without them."""
        self._names.clear()

    async def reopen(self) -> None:
        """Prepare a server that is reachable again: cancel jobs that others took over, forget the uploads."""
        self.forget_uploads()
        for prompt_id in list(self.moved):
            await self.connection.cancel(prompt_id)
            self.moved.discard(prompt_id)

    async def cancel(self, prompt_id: str) -> None:
        """Cancel a job. Errors and slow answers are ignored."""
        with contextlib.suppress(FaceCDMError, asyncio.TimeoutError):
            await asyncio.wait_for(self.connection.cancel(prompt_id), CANCELLING)

    async def run(self, batch: Batch, task: Task, queued: Callable[[str], None]) -> tuple[list[OutputFile], Finished]:
        """Run a job within the plan's timeout; return its files and its history entry.

        queued  called with the prompt id before the server gets it
        """
        self.steps[task.number] = None
        try:
            return await asyncio.wait_for(self._run(batch, task, queued), batch.plan.timeout)
        except (TimeoutError, asyncio.TimeoutError) as error:
            if task.prompt_id is not None:
                await self.cancel(task.prompt_id)
            raise NoOutput(f"it took longer than {batch.plan.timeout:g} s") from error
        finally:
            self.steps.pop(task.number, None)

    async def _run(self, batch: Batch, task: Task, queued: Callable[[str], None]) -> tuple[list[OutputFile], Finished]:
        if task.prompt_id is None:
            workflow = await self._prompt(batch, task)
            prompt_id = str(uuid.uuid4())
            queued(prompt_id)
            if (named := await self.connection.submit(workflow, prompt_id=prompt_id)) != prompt_id:
                queued(named)
        finished = await self.connection.wait(
            task.prompt_id, lambda step: self.steps.update({task.number: step}), batch.plan.timeout
        )
        return await fetch_outputs(self.connection, finished, batch.plan.file_limit * MEBI), finished

    async def _prompt(self, batch: Batch, task: Task) -> Workflow:
        """The job's workflow with this server's names of the uploaded files, and a filename prefix for this job."""
        edits = {
            key: await self._upload(batch, value) if isinstance(value, Upload) else value
            for key, value in task.job.edits.items()
        }
        for node_id, node in batch.workflow.nodes.items():
            prefix = node["inputs"].get("filename_prefix")
            if isinstance(prefix, str) and (node_id, "filename_prefix") not in edits:
                # Without it, servers that share an output folder could give two images the same name.
                attempt = f"-{task.attempts + task.losses + 1}" if task.attempts + task.losses else ""
                edits[node_id, "filename_prefix"] = f"{prefix}-{task.number:05}{attempt}"
        return prompt_of(batch.workflow, edits)

    async def _upload(self, batch: Batch, value: Upload) -> str:
        async with self._uploading:
            if value.path not in self._names:
                file = batch.files[value.path]
                if file.problem:
                    raise NoOutput(file.problem)
                try:
                    data = await asyncio.to_thread(value.path.read_bytes)
                except OSError as error:
                    raise NoOutput(f"{value.path} cannot be read any more ({error.strerror})") from error
                if hashlib.sha256(data).hexdigest() != file.digest:
                    raise NoOutput(f"{value.path} has changed since the batch began")
                self._names[value.path] = await self.connection.upload(data, file.name)
            return self._names[value.path]
