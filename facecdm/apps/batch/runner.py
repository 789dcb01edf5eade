"""All servers at work until every job is settled: done, or set aside with its message."""

import asyncio
import contextlib
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from ...comfy_api.errors import BadAnswer, JobFailed, JobInterrupted, JobLost, ServerUnreachable, WorkflowRejected
from ...comfy_api.names import inside
from ...errors import FaceCDMError
from ...files import PART, write_atomically
from . import check
from .display import Display
from .errors import DiskFull, NoServerLeft
from .jobs import Batch
from .journal import DONE, FAILED, FileRecord, Journal
from .measure import Measure
from .report import keep_best, write_sheets, write_table
from .rows import Upload
from .schedule import MOST_LOSSES, Schedule, Task
from .server import AWAY, UNFIT, UP, NoOutput, OutputFile, Server

FAILURES = (JobFailed, JobInterrupted, WorkflowRejected, NoOutput)


@dataclass(frozen=True)
class Summary:
    """How a batch ended. `set_aside` is number → message."""

    folder: Path
    jobs: int
    done: int
    set_aside: dict[int, str]

    @property
    def ok(self) -> bool:
        return self.done == self.jobs


class Runner:
    def __init__(
        self, batch: Batch, journal: Journal, servers: list[Server], measure: Measure | None, display: Display
    ):
        self.batch, self.journal, self.servers, self.measure, self.display = batch, journal, servers, measure, display
        self.folder = batch.plan.at(batch.plan.output)
        self.schedule = Schedule(batch.jobs, journal.entries(), [server.name for server in servers])
        self.unmeasured: asyncio.Queue[FileRecord | None] = asyncio.Queue()

    async def run(self, up: list[str]) -> Summary:
        """Works, and writes the report however it ends. `up`: servers whose object_info the plan was checked with."""
        self._clear_away()
        self.display.begin(self)
        for entry in self.journal.files():
            if not entry.measured:
                self.unmeasured.put_nowait(entry)
        self.schedule.live.update(up)
        serving = [asyncio.create_task(self._serve(server)) for server in self.servers]
        measuring = asyncio.create_task(self._measure())
        watching = asyncio.create_task(self._watch())
        try:
            await _until_first_error([*serving], watching)
            if not self.schedule.settled:
                told = "\n".join(f"  {server.name}: {server.note}" for server in self.servers)
                raise NoServerLeft(f"no server is left; go on with --resume when one is there:\n{told}")
            self.unmeasured.put_nowait(None)
            await measuring
        finally:
            await _end([*serving, measuring, watching])
            await self._leave()
            self.display.end()
            with contextlib.suppress(OSError, DiskFull):
                write_table(self.batch, self.journal, self.folder)
        return await asyncio.to_thread(self._finish)

    # ---- servers ----

    async def _serve(self, server: Server) -> None:
        """One server's life in a batch: asked, welcomed, worked with; away and asked again."""
        while not self.schedule.settled:
            try:
                if not await self._open(server):
                    return
                await self._work(server)
            except (ServerUnreachable, BadAnswer) as error:
                self._away(server, error)
                await asyncio.sleep(1)

    async def _open(self, server: Server) -> bool:
        """False where it cannot do this plan; raises ServerUnreachable, BadAnswer."""
        places = {place for found in self.batch.targets.values() for place in found}
        info = await server.nodes()
        if lines := list(check.mistakes_of(self.batch.workflow, places, self.batch.given, info)):
            server.state, server.note = UNFIT, f"cannot do this plan: {lines[0]}"
            self.schedule.live.discard(server.name)
            self.display.say(f"{server.name} {server.note}")
            return False
        await server.welcome()
        self.schedule.live.add(server.name)  # from here on nobody else takes what was its own
        for task in self.schedule.owned_by(server.name):
            if not await server.still_has(task.prompt_id):
                self._lose(task)
        if server.state == AWAY:
            self.display.say(f"{server.name} is back")
        server.state, server.note = UP, ""
        return True

    def _away(self, server: Server, error: Exception) -> None:
        if server.state != AWAY:
            self.display.say(f"{server.name} is away: {error}")
        server.state, server.note = AWAY, str(error)
        self.schedule.live.discard(server.name)

    async def _work(self, server: Server) -> None:
        """Gives it jobs until all are settled; raises ServerUnreachable, BadAnswer, DiskFull."""
        slots: set[asyncio.Task] = set()
        ended: set[asyncio.Task] = set()
        # One that runs and one that it goes on with at once; the latter's waiting would count as its time.
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
        """Draws until all is settled; raises NoServerLeft when all servers have been away for too long."""
        last = time.monotonic()
        while not self.schedule.settled:
            last = time.monotonic() if self.schedule.live else last
            if time.monotonic() - last > self.batch.plan.give_up:
                told = "\n".join(f"  {server.note}" for server in self.servers)
                raise NoServerLeft(f"no server answers any more; go on with --resume when one does:\n{told}")
            self.display.draw()
            await asyncio.sleep(0.2)

    # ---- one job ----

    async def _attempt(self, server: Server, task: Task) -> None:
        if task.prompt_id and task.owner != server.name:  # its server is away, and may still do it
            for other in self.servers:
                if other.name == task.owner:
                    other.strays.add(task.prompt_id)
            if not self._count_loss(task):
                return

        def queued(prompt_id: str) -> None:
            task.owner, task.prompt_id = server.name, prompt_id
            self.journal.queued(task.number, server.name, prompt_id)

        try:
            results, seconds = await server.do(self.batch, task, queued)
            await _to_its_end(self._keep(server, task, results, seconds))
        except FAILURES as error:
            if isinstance(error, WorkflowRejected):
                server.forget_uploads()
            self._failed(server, task, error)
        except BadAnswer as error:  # the job's fault, or the server's: it has to answer well before it gets another
            self._failed(server, task, error)
            raise
        except JobLost:
            server.forget_uploads()
            self._lose(task)
        except BaseException:  # whatever it was, the job is still to be done
            if task.number in self.schedule.working:
                self.schedule.put_back(task)
            raise

    async def _keep(self, server: Server, task: Task, results: list[OutputFile], seconds: float | None) -> None:
        """Files first, then the journal: a job that is done has its files."""
        names = [task.job.name + (f"-{number}" if number > 1 else "") for number in range(1, len(results) + 1)]
        suffixes = [result.suffix for result in results]
        paths = [inside(self.folder, path) for path in self.journal.claim(task.number, names, suffixes, self.folder)]
        for path, result in zip(paths, results):
            try:
                await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(write_atomically, path, result.data)
            except OSError as error:
                raise DiskFull(
                    f"{path} could not be written ({error.strerror}): free some space, then go on with --resume"
                ) from error
        self.journal.done(task.number, server.name, seconds)
        self.schedule.settle(task)
        server.done += 1
        self.display.done(task, len(results))
        for entry in self.journal.files(task.number):
            self.unmeasured.put_nowait(entry)

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
        """Nobody has it any more. False where that happened too often: the job is set aside."""
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

    # ---- around it ----

    async def _measure(self) -> None:
        """Looks at every picture, beside the servers' work, until None comes."""
        while (entry := await self.unmeasured.get()) is not None:
            if self.measure is None:
                continue
            job = self.batch.jobs[entry.job - 1]
            person = self.batch.person(job)
            path = inside(self.folder, entry.kept or entry.path)
            seen = await asyncio.to_thread(self.measure.look, path, person if isinstance(person, Upload) else None)
            if seen is not None:
                self.journal.measured(entry, seen.identity, seen.faces, seen.detection)

    def _clear_away(self) -> None:
        """What an attempt left that was cut off: parts of files, and files of jobs that are not done."""
        for part in self.folder.rglob(f".*{PART}"):
            if re.fullmatch(rf"\.[0-9a-f]{{32}}\{PART}", part.name):
                part.unlink(missing_ok=True)
        for path in self.journal.unfinished_files():
            inside(self.folder, path).unlink(missing_ok=True)

    async def _leave(self) -> None:
        """Takes our jobs from the queues. The journal remembers them: one that ended just now is not lost."""

        async def cancel(server: Server, prompt_id: str) -> None:
            with contextlib.suppress(FaceCDMError, asyncio.TimeoutError):
                await asyncio.wait_for(server.connection.cancel(prompt_id), 5)

        mine = {server.name: server for server in self.servers if server.state == UP}
        await asyncio.gather(
            *(
                cancel(mine[task.owner], task.prompt_id)
                for task in self.schedule.waiting.values()
                if task.prompt_id and task.owner in mine
            )
        )

    def _finish(self) -> Summary:
        """All is settled: the best are chosen, the table and the sheets written."""
        try:
            keep_best(self.batch, self.journal, self.folder)
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
    """Returns when the watch ends, or all that serve; raises what one of them raises."""
    left = set(serving)
    while left and not watching.done():
        ended, _ = await asyncio.wait({*left, watching}, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        left -= ended


async def _to_its_end(work: Coroutine) -> None:
    """Awaits what must not be left half done; who is cancelled meanwhile is so afterwards."""
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
