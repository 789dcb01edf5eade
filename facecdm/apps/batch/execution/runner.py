"""Run all servers until every job is settled: done, or set aside with an error message."""

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from ....comfy_api.errors import BadAnswer, JobFailed, JobInterrupted, JobLost, ServerUnreachable, WorkflowRejected
from ....comfy_api.history import Finished
from ....comfy_api.names import inside
from ....errors import FaceCDMError
from ....files import PART, write_atomically
from ..errors import DiskFull, NoServerLeft
from ..plan import nodes
from ..plan.jobs import Batch
from ..plan.rows import Upload
from ..results.best import keep_best
from ..results.measure import Measure
from ..results.sheets import write_sheets
from ..results.table import write_table
from .display import Display
from .journal import DONE, FAILED, FileRecord, Journal
from .outputs import NoOutput, OutputFile
from .schedule import MOST_LOSSES, Schedule, Task
from .server import AWAY, UNFIT, UP, Server

FAILURES = (JobFailed, JobInterrupted, WorkflowRejected, NoOutput)


@dataclass(frozen=True)
class Summary:
    """How a batch ended.

    folder     the output folder
    jobs       number of jobs
    done       number of done jobs
    set_aside  job number → error message
    """

    folder: Path
    jobs: int
    done: int
    set_aside: dict[int, str]

    @property
    def ok(self) -> bool:
        return self.done == self.jobs


class Runner:
    """
    folder      the output folder
    schedule    assigns jobs to servers
    unmeasured  queue of files to measure; None ends the measuring
    """

    def __init__(
        self, batch: Batch, journal: Journal, servers: list[Server], measure: Measure | None, display: Display
    ):
        self.batch, self.journal, self.servers, self.measure, self.display = batch, journal, servers, measure, display
        self.folder = batch.plan.at(batch.plan.output)
        self.schedule = Schedule(batch.jobs, journal.entries(), [server.name for server in servers])
        self.unmeasured: asyncio.Queue[FileRecord | None] = asyncio.Queue()

    async def run(self, up: list[str]) -> Summary:
        """Run all jobs, then write the table, also after an error. Raises NoServerLeft, DiskFull.

        up  servers whose /object_info the plan was checked with
        """
        self._remove_leftovers()
        self.display.begin(self)
        if self.measure and self.journal.measure_with(self.measure.settings):
            self.display.say("`person` or the face pack has changed: all images are measured again")
        for entry in self.journal.files():
            if not entry.measured:
                self._queue_measuring(entry)
        self._set_aside_without_files()
        self.schedule.live.update(up)
        serving = [asyncio.create_task(self._serve(server)) for server in self.servers]
        measuring = asyncio.create_task(self._measure())
        watching = asyncio.create_task(self._watch())
        try:
            await _until_first_error([*serving], watching)
            if not self.schedule.settled:
                notes = "\n".join(f"  {server.name}: {server.note}" for server in self.servers)
                raise NoServerLeft(f"no server is left; start one, then continue with --resume:\n{notes}")
            self.unmeasured.put_nowait(None)
            while not measuring.done():
                self.display.draw()
                await asyncio.wait([measuring], timeout=0.2)
            await measuring
        finally:
            await _end([*serving, measuring, watching])
            await self._cancel_queued()
            self.display.end()
            with contextlib.suppress(OSError, DiskFull):
                write_table(self.batch, self.journal, self.folder)
        return await asyncio.to_thread(self._finish)

    # ---- servers ----

    async def _serve(self, server: Server) -> None:
        """Open a server and give it jobs. Retry every second while it is unreachable."""
        while not self.schedule.settled:
            try:
                if not await self._open(server):
                    return
                await self._work(server)
            except (ServerUnreachable, BadAnswer) as error:
                self._away(server, error)
                await asyncio.sleep(1)

    async def _open(self, server: Server) -> bool:
        """Whether the server can run this plan. Raises ServerUnreachable, BadAnswer."""
        edited = {key for found in self.batch.targets.values() for key in found}
        info = await server.nodes()
        if lines := list(nodes.mistakes_of(self.batch.workflow, edited, self.batch.values, info)):
            server.state, server.note = UNFIT, f"cannot run this plan: {lines[0]}"
            self.schedule.live.discard(server.name)
            self.display.say(f"{server.name} {server.note}")
            return False
        await server.reopen()
        self.schedule.live.add(server.name)  # from here on no other server takes its jobs
        for task in self.schedule.owned_by(server.name):
            await self._find_again(server, task)
        if server.state == AWAY:
            self.display.say(f"{server.name} is back")
        server.state, server.note = UP, ""
        return True

    async def _find_again(self, server: Server, task: Task) -> None:
        """Free a job if the server no longer has it. If it does not answer, free the job and raise the error."""
        prompt_id = task.prompt_id
        try:
            found = await server.still_has(prompt_id)
        except ServerUnreachable:
            server.moved.add(prompt_id)
            self._lose(task)
            raise
        if not found:
            self._lose(task)

    def _away(self, server: Server, error: Exception) -> None:
        if server.state != AWAY:
            self.display.say(f"{server.name} is away: {error}")
        server.state, server.note = AWAY, str(error)
        self.schedule.live.discard(server.name)

    async def _work(self, server: Server) -> None:
        """Give the server jobs until all are settled. Raises ServerUnreachable, BadAnswer, DiskFull."""
        slots: set[asyncio.Task] = set()
        ended: set[asyncio.Task] = set()
        # A second queued job avoids idle time, but its time in the queue would count towards a timeout.
        most = 1 if self.batch.plan.timeout else 2
        try:
            while slots or not self.schedule.settled:
                while len(slots) < most and (task := self.schedule.take(server.name, ahead=bool(slots))):
                    slots.add(asyncio.create_task(self._attempt(server, task)))
                if not slots:
                    await asyncio.sleep(0.1)
                    continue
                ended, slots = await asyncio.wait(slots, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                for slot in ended:
                    slot.result()
        finally:
            await _end([*slots, *ended])

    async def _watch(self) -> None:
        """Draw progress until all jobs are settled. Raises NoServerLeft if all servers are unreachable for too long."""
        last = time.monotonic()
        while not self.schedule.settled:
            last = time.monotonic() if self.schedule.live else last
            if time.monotonic() - last > self.batch.plan.give_up:
                notes = "\n".join(f"  {server.note}" for server in self.servers)
                raise NoServerLeft(f"no server answers any more; when one does, continue with --resume:\n{notes}")
            self.display.draw()
            await asyncio.sleep(0.2)

    # ---- one job ----

    async def _attempt(self, server: Server, task: Task) -> None:
        if task.prompt_id and task.owner != server.name:  # its unreachable server may still run it
            for other in self.servers:
                if other.name == task.owner:
                    other.moved.add(task.prompt_id)
            if not self._count_loss(task):
                return

        def queued(prompt_id: str) -> None:
            task.owner, task.prompt_id = server.name, prompt_id
            self.journal.queued(task.number, server.name, prompt_id)

        try:
            files, finished = await server.run(self.batch, task, queued)
            await _uninterrupted(self._store(server, task, files, finished))
        except FAILURES as error:
            if isinstance(error, WorkflowRejected):
                server.forget_uploads()
            self._failed(server, task, error)
        except BadAnswer as error:  # job or server at fault: check the server before its next job
            self._failed(server, task, error)
            raise
        except JobLost:
            server.forget_uploads()
            self._lose(task)
        except BaseException:
            if task.number in self.schedule.working:
                self.schedule.put_back(task)
            raise

    async def _store(self, server: Server, task: Task, files: list[OutputFile], finished: Finished) -> None:
        """Write the files, then the journal, so that a done job always has its files. Raises DiskFull."""
        names = [task.job.name + (f"-{number}" if number > 1 else "") for number in range(1, len(files) + 1)]
        suffixes = [file.suffix for file in files]
        paths = [inside(self.folder, path) for path in self.journal.claim(task.number, names, suffixes, self.folder)]
        for path, file in zip(paths, files):
            try:
                await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(write_atomically, path, file.data)
            except OSError as error:
                raise DiskFull(
                    f"{path} could not be written ({error.strerror}): free some space, then --resume"
                ) from error
        warnings = finished.warnings()
        self.journal.done(task.number, server.name, finished.seconds, warnings)
        self.schedule.settle(task)
        server.done += 1
        self.display.done(task, len(files))
        for text in warnings:
            self.display.say(f"job {task.number}: {text}")
        for entry in self.journal.files(task.number):
            self._queue_measuring(entry)

    def _failed(self, server: Server, task: Task, error: FaceCDMError) -> None:
        task.attempts += 1
        task.prompt_id = task.owner = None
        task.failed_on.add(server.name)
        self.journal.tried(task.number, str(error))
        if task.attempts >= self.batch.plan.attempts:
            self._set_aside(task, str(error))
        else:
            self.schedule.put_back(task, last=True)

    def _lose(self, task: Task) -> None:
        if self._count_loss(task):
            self.schedule.put_back(task)

    def _count_loss(self, task: Task) -> bool:
        """Count the loss of the job's server. After too many losses, set the job aside and return False."""
        task.losses += 1
        task.prompt_id = task.owner = None
        self.journal.free(task.number, lost=True)
        if task.losses >= MOST_LOSSES:
            self._set_aside(task, f"its server went away {task.losses} times while it had this job")
            return False
        return True

    def _set_aside(self, task: Task, message: str) -> None:
        self.schedule.waiting.pop(task.number, None)
        self.schedule.settle(task)
        self.journal.failed(task.number, message)
        self.display.set_aside(task, message)

    def _set_aside_without_files(self) -> None:
        """Set jobs aside whose files cannot be read, unless a server has them already."""
        problems = {path: file.problem for path, file in self.batch.files.items() if file.problem}
        for task in list(self.schedule.waiting.values()) if problems else []:
            paths = [value.path for value in task.job.row.values() if isinstance(value, Upload)]
            if found := [problems[path] for path in paths if path in problems and not task.prompt_id]:
                self._set_aside(task, found[0])

    # ---- measuring and clean-up ----

    def _queue_measuring(self, entry: FileRecord) -> None:
        if self.measure is not None:
            self.unmeasured.put_nowait(entry)
            self.display.to_measure += 1

    async def _measure(self) -> None:
        """Measure every stored image while the servers work."""
        while (entry := await self.unmeasured.get()) is not None:
            job = self.batch.jobs[entry.job - 1]
            person = self.batch.person(job)
            path = inside(self.folder, entry.kept or entry.path)
            try:
                found = await asyncio.to_thread(
                    self.measure.measure, path, person if isinstance(person, Upload) else None
                )
            except Exception as error:  # a damaged picture, or too little memory; the others are still measured
                self.display.say(f"{path} is not measured: {error!s:.300}")
                found = None
            if found is not None:
                self.journal.measured(entry, found.identity, found.faces, found.detection)
            self.display.measured += 1

    def _remove_leftovers(self) -> None:
        """Remove leftovers of interrupted attempts: partial files, and files of unfinished jobs."""
        for part in self.folder.rglob(f".*{PART}"):
            if re.fullmatch(rf"\.[0-9a-f]{{32}}\{PART}", part.name):
                part.unlink(missing_ok=True)
        for path in self.journal.unfinished_files():
            inside(self.folder, path).unlink(missing_ok=True)

    async def _cancel_queued(self) -> None:
        """Cancel our jobs on the servers. The journal keeps their ids, so a job that has just ended is not lost."""
        up = {server.name: server for server in self.servers if server.state == UP}
        await asyncio.gather(
            *(
                up[task.owner].cancel(task.prompt_id)
                for task in self.schedule.waiting.values()
                if task.prompt_id and task.owner in up
            )
        )

    def _finish(self) -> Summary:
        """Choose the best images; write the table and the sheets. Raises DiskFull."""
        try:
            for note in keep_best(self.batch, self.journal, self.folder):
                self.display.say(note)
            write_table(self.batch, self.journal, self.folder)
            write_sheets(self.batch, self.journal, self.folder)
        except OSError as error:
            raise DiskFull(
                f"every job is settled, but the report could not be written into {self.folder} "
                f"({error.strerror}): free some space, then --resume"
            ) from error
        entries = self.journal.entries()
        aside = {entry.number: entry.message for entry in entries if entry.state == FAILED}
        return Summary(self.folder, len(entries), sum(entry.state == DONE for entry in entries), aside)


async def _until_first_error(serving: list[asyncio.Task], watching: asyncio.Task) -> None:
    """Return when `watching` ends or all of `serving` have ended. Raise the first exception among them."""
    left = set(serving)
    while left and not watching.done():
        ended, _ = await asyncio.wait({*left, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        left -= ended


async def _uninterrupted(work: Coroutine) -> None:
    """Await `work`. A cancellation takes effect after it ends."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _end(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
