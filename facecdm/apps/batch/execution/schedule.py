"""Assign jobs to servers. Servers are only names here; no function waits or communicates."""

from collections import OrderedDict
from dataclasses import dataclass, field

from ..plan.jobs import Job
from .journal import WAITING, JobRecord

MOST_LOSSES = 5  # after this many lost servers the job is considered the cause


@dataclass
class Task:
    """A job that is not settled.

    job        the job
    attempts   number of failed attempts
    losses     how often its server became unreachable or lost it
    owner      the server that may still have it
    prompt_id  its id on that server
    failed_on  servers on which an attempt failed
    """

    job: Job
    attempts: int = 0
    losses: int = 0
    owner: str | None = None
    prompt_id: str | None = None
    failed_on: set[str] = field(default_factory=set)

    @property
    def number(self) -> int:
        return self.job.number


class Schedule:
    def __init__(self, jobs: list[Job], entries: list[JobRecord], servers: list[str]):
        """
        jobs, entries  jobs and their journal entries, in the same order
        servers        servers of this run; a job of any other server has no owner
        """
        self.live: set[str] = set()
        self.waiting: OrderedDict[int, Task] = OrderedDict()
        self.working: dict[int, Task] = {}
        for job, entry in zip(jobs, entries):
            if entry.state == WAITING:
                bound = entry.prompt_id is not None and entry.server in servers
                owner, prompt_id = (entry.server, entry.prompt_id) if bound else (None, None)
                self.waiting[job.number] = Task(job, entry.attempts, entry.losses, owner, prompt_id)

    @property
    def settled(self) -> bool:
        return not self.waiting and not self.working

    def take(self, server: str, ahead: bool = False) -> Task | None:
        """The next job for a server, or None.

        A server gets its own jobs, jobs without an owner, and jobs of unreachable servers. A job that failed here
        goes to another server if one is left. A job that lost its server runs alone, so that it must be the
        cause of a second loss.

        ahead  whether the job would wait behind another one
        """
        alone = any(task.losses and task.owner in (server, None) for task in self.working.values())
        if ahead and (alone or len(self.waiting) <= len(self.live)):
            return None
        for task in self.waiting.values():
            here = task.owner == server or task.owner is None or task.owner not in self.live
            if here and not (ahead and task.losses) and (server not in task.failed_on or self.live <= task.failed_on):
                del self.waiting[task.number]
                self.working[task.number] = task
                return task
        return None

    def put_back(self, task: Task, last: bool = False) -> None:
        """Return a job to the front or the end of the queue."""
        self.working.pop(task.number, None)
        self.waiting[task.number] = task
        self.waiting.move_to_end(task.number, last=last)

    def settle(self, task: Task) -> None:
        self.working.pop(task.number, None)

    def owned_by(self, server: str) -> list[Task]:
        return [task for task in self.waiting.values() if task.owner == server]
