"""Which job goes to which server. Nothing here waits or talks; names stand for servers."""

from collections import OrderedDict
from dataclasses import dataclass, field

from .jobs import Job
from .journal import WAITING, JobRecord

MOST_LOSSES = 5  # servers that may go away under a job until it is taken to be the reason


@dataclass
class Task:
    """A job that is not settled. With an owner it may still be on that server, under that id."""

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
        """Jobs that wait; one whose server is none of `servers` any more belongs to nobody."""
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
        """The next job for a server; `ahead`: it would wait there behind another one.

        Its own jobs come first. Those of a server that is away are anybody's; one that failed here goes elsewhere
        while there is an elsewhere. One under which a server went away is alone there: should it be the cause, no other
        job shares the blame.
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
        """Waits again, at the front or as the last one."""
        self.working.pop(task.number, None)
        self.waiting[task.number] = task
        self.waiting.move_to_end(task.number, last=last)

    def settle(self, task: Task) -> None:
        self.working.pop(task.number, None)

    def owned_by(self, server: str) -> list[Task]:
        return [task for task in self.waiting.values() if task.owner == server]
