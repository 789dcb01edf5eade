"""One server as a batch sees it: up or away, what it has been given, and one job on it from end to end."""

import asyncio
import contextlib
import hashlib
import io
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...comfy_api.client import MEBI, OnProgress, Progress
from ...comfy_api.errors import BadAnswer, JobFailed, JobInterrupted
from ...comfy_api.history import Finished, Output
from ...comfy_api.workflow import Workflow
from ...errors import FaceCDMError
from .jobs import Batch, with_values
from .naming import suffix_of
from .rows import Upload
from .schedule import Task

STARTING, UP, AWAY, UNFIT = "starting", "up", "away", "unfit"
MOST_FILES, MOST_BYTES = 1000, 1024 * MEBI  # of one job
READABLE = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class Connection(Protocol):
    """What a batch wants of a server: jobs.client.Client, or a Ray worker."""

    async def __aenter__(self) -> "Connection": ...
    async def __aexit__(self, *_: object) -> None: ...
    async def object_info(self) -> dict[str, Any]: ...
    async def upload(self, picture: bytes, name: str) -> str: ...
    async def submit(self, workflow: Workflow, *, prompt_id: str) -> str: ...
    async def wait(self, prompt_id: str, on_progress: OnProgress | None, timeout: float | None) -> Finished: ...
    async def finished(self, prompt_id: str) -> Finished | None: ...
    async def knows(self, prompt_id: str) -> bool: ...
    async def fetch(self, output: Output, limit: int) -> bytes: ...
    async def cancel(self, prompt_id: str) -> None: ...


class NoOutput(FaceCDMError):
    """A job ended well, but what it left is nothing, or too much, or cannot be read."""


@dataclass(frozen=True)
class OutputFile:
    """A file that a job made, on its way to the disk."""

    suffix: str
    data: bytes


@dataclass
class Server:
    name: str
    connection: Connection
    state: str = STARTING
    note: str = ""
    done: int = 0
    steps: dict[int, Progress | None] = field(default_factory=dict)  # by job, those that are there now
    strays: set[str] = field(default_factory=set)  # ids of jobs that went to others while this one was away
    _names: dict[Path, str] = field(default_factory=dict)
    _uploading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def nodes(self) -> dict[str, dict[str, Any]]:
        """Its /object_info, without entries that are none."""
        info = await self.connection.object_info()
        if not isinstance(info, dict):
            raise BadAnswer(f"{self.name} lists no nodes")
        return {name: node for name, node in info.items() if isinstance(node, dict)}

    async def still_has(self, prompt_id: str) -> bool:
        """Whether a job that was queued here before runs, waits, or has left a result or an error."""
        try:
            finished = await self.connection.finished(prompt_id) is not None
            # One that ends between the two questions is in neither answer: hence the third.
            return (
                finished
                or await self.connection.knows(prompt_id)
                or (await self.connection.finished(prompt_id) is not None)
            )
        except JobFailed:
            return True
        except (JobInterrupted, BadAnswer):
            return False

    def forget_uploads(self) -> None:
        """It may have been started anew without them: they are sent again."""
        self._names.clear()

    async def welcome(self) -> None:
        """After an absence: what was moved to others is not wanted here any more, and files may be gone."""
        self.forget_uploads()
        for prompt_id in list(self.strays):
            await self.connection.cancel(prompt_id)
            self.strays.discard(prompt_id)

    async def do(
        self, batch: Batch, task: Task, queued: Callable[[str], None]
    ) -> tuple[list[OutputFile], float | None]:
        """The job's files, and the seconds that it ran. `queued` is told the id before the server is."""
        self.steps[task.number] = None
        try:
            if task.prompt_id is None:
                workflow = await self._workflow(batch, task)
                prompt_id = str(uuid.uuid4())
                queued(prompt_id)
                if (named := await self.connection.submit(workflow, prompt_id=prompt_id)) != prompt_id:
                    queued(named)
            finished = await self.connection.wait(
                task.prompt_id, lambda step: self.steps.update({task.number: step}), batch.plan.timeout
            )
            return await self._fetch(finished, batch.plan.file_limit * MEBI), finished.seconds
        except TimeoutError as error:
            with contextlib.suppress(FaceCDMError):
                await self.connection.cancel(task.prompt_id)
            raise NoOutput(f"it took longer than {batch.plan.timeout:g} s") from error
        finally:
            self.steps.pop(task.number, None)

    async def _workflow(self, batch: Batch, task: Task) -> Workflow:
        """The job's workflow, with the names that its files have here, and a prefix of its own for what it saves."""
        edits = {
            place: await self._upload(batch, value) if isinstance(value, Upload) else value
            for place, value in task.job.edits.items()
        }
        for node_id, node in batch.workflow.nodes.items():
            prefix = node["inputs"].get("filename_prefix")
            if isinstance(prefix, str) and (node_id, "filename_prefix") not in edits:
                # Servers that share an output folder would take the same number for two pictures.
                attempt = f"-{task.attempts + task.losses + 1}" if task.attempts + task.losses else ""
                edits[node_id, "filename_prefix"] = f"{prefix}-{task.number:05}{attempt}"
        return with_values(batch.workflow, edits)

    async def _upload(self, batch: Batch, value: Upload) -> str:
        async with self._uploading:
            if value.path not in self._names:
                file = batch.files[value.path]
                try:
                    data = await asyncio.to_thread(value.path.read_bytes)
                except OSError as error:
                    raise NoOutput(f"{value.path} cannot be read any more ({error.strerror})") from error
                if hashlib.sha256(data).hexdigest() != file.digest:
                    raise NoOutput(f"{value.path} has changed since the batch began")
                self._names[value.path] = await self.connection.upload(data, file.name)
            return self._names[value.path]

    async def _fetch(self, finished: Finished, limit: int) -> list[OutputFile]:
        outputs = list(dict.fromkeys(output for output in finished.outputs if output.type == "output"))
        if not outputs:
            raise NoOutput("the workflow saved no file")
        if len(outputs) > MOST_FILES:
            raise NoOutput(f"the job left {len(outputs)} files; at most {MOST_FILES} are taken")
        results, left = [], MOST_BYTES
        for output in outputs:
            data = await self.connection.fetch(output, min(limit, left))
            left -= len(data)
            results.append(OutputFile(suffix_of(output.filename), data))
        await asyncio.to_thread(_look_at, results)
        return results


def _look_at(results: list[OutputFile]) -> None:
    """Raises NoResult for a picture that is cut off, or none."""
    from PIL import Image

    for result in results:
        if result.suffix in READABLE:
            try:
                with Image.open(io.BytesIO(result.data)) as picture:
                    picture.load()
            except Image.DecompressionBombError:
                continue  # large, and kept as it is
            except Exception as error:  # Pillow raises many types
                raise NoOutput(f"a picture of the job cannot be read ({error})") from error
