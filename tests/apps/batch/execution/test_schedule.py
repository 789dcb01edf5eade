"""Which job goes to which server: never to two, and none is left over."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from facecdm.apps.batch.execution.journal import DONE, WAITING, JobRecord
from facecdm.apps.batch.execution.schedule import Schedule
from facecdm.apps.batch.plan.jobs import Job

SERVERS = ("a", "b", "c")


def schedule(*entries: JobRecord, servers=SERVERS) -> Schedule:
    return Schedule([Job(entry.number, "", {}, {}) for entry in entries], list(entries), list(servers))


def entry(number: int, state: str = WAITING, server=None, prompt_id=None) -> JobRecord:
    return JobRecord(number, state, 0, 0, server, prompt_id, "", None)


def test_queued_jobs_stay_with_their_server():
    mine, orphan = entry(2, server="a", prompt_id="x"), entry(4, server="gone", prompt_id="y")
    found = schedule(entry(1, DONE), mine, entry(3), orphan)
    found.live.update("ab")
    assert [found.take("b").number, found.take("b").number] == [3, 4] and found.take("b") is None
    assert found.take("a").prompt_id == "x"


def test_a_server_that_is_away_loses_its_jobs():
    found = schedule(entry(1, server="a", prompt_id="x"))
    found.live.update("b")
    assert found.take("b").owner == "a"


def test_no_second_job_while_other_servers_are_free():
    found = schedule(entry(1), entry(2), entry(3))
    found.live.update("ab")
    assert found.take("a", ahead=True).number == 1
    assert found.take("a", ahead=True) is None and found.take("b").number == 2


def test_a_failed_job_goes_to_another_server_if_there_is_one():
    found = schedule(entry(1))
    found.live.update("ab")
    task = found.take("a")
    task.failed_on.add("a")
    found.put_back(task, last=True)
    assert found.take("a") is None
    found.live.discard("b")
    assert found.take("a") is task


class AnyOrder(RuleBasedStateMachine):
    """Servers come, go, take and finish jobs in any order: every job ends once and is on one server at a time."""

    def __init__(self):
        super().__init__()
        self.schedule = schedule(*(entry(number) for number in range(1, 8)))
        self.held: dict[int, str] = {}
        self.ended: list[int] = []

    @rule(server=st.sampled_from(SERVERS))
    def come(self, server):
        self.schedule.live.add(server)

    @rule(server=st.sampled_from(SERVERS), keep=st.booleans())
    def go(self, server, keep):
        for number in [number for number, holder in self.held.items() if holder == server]:
            task = self.schedule.working[number]
            task.owner, task.prompt_id = (server, "id") if keep else (None, None)
            self.schedule.put_back(task)
            del self.held[number]
        self.schedule.live.discard(server)

    @rule(server=st.sampled_from(SERVERS), ahead=st.booleans())
    def take(self, server, ahead):
        if server in self.schedule.live and (task := self.schedule.take(server, ahead)):
            assert task.number not in self.held and task.number not in self.ended
            assert task.owner in (None, server) or task.owner not in self.schedule.live
            task.owner = server
            self.held[task.number] = server

    @precondition(lambda self: self.held)
    @rule(data=st.data(), fails=st.booleans())
    def end(self, data, fails):
        number = data.draw(st.sampled_from(sorted(self.held)))
        task = self.schedule.working[number]
        if fails:
            task.failed_on.add(self.held[number])
            task.owner = None
            self.schedule.put_back(task, last=True)
        else:
            self.schedule.settle(task)
            self.ended.append(number)
        del self.held[number]

    @invariant()
    def nothing_is_lost(self):
        both = [*self.schedule.waiting, *self.schedule.working, *self.ended]
        assert sorted(both) == list(range(1, 8))

    def teardown(self):
        self.schedule.live.update(SERVERS)
        while not self.schedule.settled:
            tasks = [task for server in SERVERS if (task := self.schedule.take(server))]
            assert tasks or self.schedule.working, "jobs wait, servers are free, and no server takes one"
            for task in [*tasks, *self.schedule.working.values()]:
                self.schedule.settle(task)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
