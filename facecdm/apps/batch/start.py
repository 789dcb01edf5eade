"""Start a batch: connect to the servers, check the plan, build the jobs, open the journal, run."""

import asyncio
import contextlib
import hashlib
import os
import signal
import uuid
from collections.abc import AsyncIterator

from ...comfy_api.client import Client
from ...comfy_api.errors import BadAnswer, ServerUnreachable
from .errors import NoServerLeft, PlanMistake
from .execution.display import Display
from .execution.journal import Journal, recorded_jobs
from .execution.runner import Runner, Summary
from .execution.server import AWAY, Connection, Server
from .plan.check import check
from .plan.jobs import build
from .plan.plan import Plan
from .results.measure import open_measure

LONGEST_START = 300  # seconds for a server to list its nodes; a Ray worker starts ComfyUI first


def run(plan: Plan, resume: bool = False, retry_failed: bool = False, display: Display | None = None) -> Summary:
    """Run a batch. Raises PlanMistake, JournalMistake, NoServerLeft, DiskFull; KeyboardInterrupt on Ctrl-C."""

    async def stoppable() -> Summary:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        stopped = []

        def stop() -> None:
            stopped.append(True)
            if len(stopped) > 1:  # a second Ctrl-C exits at once
                os._exit(130)
            task.cancel()

        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # on Windows, or in another thread
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop)
        try:
            return await run_async(plan, resume, retry_failed, display)
        except asyncio.CancelledError:
            if stopped:
                raise KeyboardInterrupt from None
            raise

    return asyncio.run(stoppable())


async def run_async(
    plan: Plan, resume: bool = False, retry_failed: bool = False, display: Display | None = None
) -> Summary:
    """`run` inside an event loop; cancel the coroutine to stop."""
    display = display or Display()
    async with connected(plan) as servers:
        display.say(f"asking {', '.join(server.name for server in servers)}")
        infos = await ask_all(servers)
        recorded = recorded_jobs(plan.at(plan.output))
        # In a thread, because a large plan takes seconds in which Ctrl-C must work.
        batch = await asyncio.to_thread(lambda: build(check(plan, infos, recorded)))
        with Journal(plan.at(plan.output), batch.record(), resume) as journal:
            if retry_failed:
                journal.retry_failed()
            measure, note = await asyncio.to_thread(open_measure, batch)
            if plan.keep_best and not (measure and measure.has_people):
                raise PlanMistake([f"keep_best: {note or measure.notes[0]}"])
            for line in [note] if note else measure.notes:
                display.say(line)
            return await Runner(batch, journal, servers, measure, display).run(list(infos))


@contextlib.asynccontextmanager
async def connected(plan: Plan) -> AsyncIterator[list[Server]]:
    """Connect to the servers of a plan while the block runs. Raises PlanMistake unless it has either servers or ray."""
    if not plan.servers and plan.ray is None:
        raise PlanMistake(["servers: name at least one, as in 127.0.0.1:8188 (or `ray`)"])
    if plan.servers and plan.ray is not None:
        raise PlanMistake(["servers: a plan has either `servers` or `ray`: remove one"])
    # The id is the same in every run of a batch, so this run also gets the progress of jobs queued earlier.
    origin = f"{uuid.getnode()} {plan.at(plan.output).resolve()}"
    client_id = hashlib.sha256(origin.encode("utf-8", "replace")).hexdigest()[:32]
    async with contextlib.AsyncExitStack() as stack:
        if plan.ray is not None:
            from .execution.ray_workers import workers

            found: dict[str, Connection] = await stack.enter_async_context(workers(plan, client_id))
        else:
            found = {name: Client(name, patience=plan.patience, client_id=client_id) for name in plan.servers}
        for connection in found.values():
            await stack.enter_async_context(connection)
        yield [Server(name, connection) for name, connection in found.items()]


async def ask_all(servers: list[Server]) -> dict[str, dict]:
    """/object_info of every server that answers, by name. Raises NoServerLeft if none does."""

    async def ask(server: Server) -> dict | None:
        try:
            return await asyncio.wait_for(server.nodes(), LONGEST_START)
        except (ServerUnreachable, BadAnswer) as error:
            server.state, server.note = AWAY, str(error)
        except asyncio.TimeoutError:  # for example, the cluster has no room for a Ray worker
            server.state, server.note = AWAY, f"{server.name} gave no answer in {LONGEST_START} s"
        return None

    infos = await asyncio.gather(*map(ask, servers))
    found = {server.name: info for server, info in zip(servers, infos) if info is not None}
    if not found:
        raise NoServerLeft("no server answers:\n" + "\n".join(f"  {server.note}" for server in servers))
    return found
