"""Second pass: build the jobs of a checked plan, and the prompt of a job."""

from dataclasses import dataclass, replace
from typing import Any

from ....comfy_api.workflow import Workflow
from . import naming, nodes
from .check import CheckedPlan
from .nodes import InputKey
from .rows import Row, Upload
from .uploads import UNREADABLE


@dataclass(frozen=True)
class Job:
    """One run of the workflow.

    number  index of the job, from 1
    name    relative path of its image, without suffix
    row     the plan's values, by short name
    edits   input → value in the server's form, or Upload
    """

    number: int
    name: str
    row: Row
    edits: dict[InputKey, Any]


@dataclass(frozen=True)
class Batch(CheckedPlan):
    """A checked plan with its jobs, in the plan's order."""

    jobs: list[Job]

    def record(self) -> dict[str, Any]:
        """The workflow and all values as JSON. It identifies the batch of a journal."""
        return {
            "workflow": self.workflow.nodes,
            "inputs": {name: [".".join(key) for key in keys] for name, keys in self.targets.items()},
            "jobs": [
                {"name": job.name, **{name: self._recorded(value) for name, value in job.row.items()}}
                for job in self.jobs
            ],
        }

    def _recorded(self, value: Any) -> Any:
        if not isinstance(value, Upload):
            return value
        file = self.files[value.path]
        return value.path.name + (UNREADABLE if file.problem else f" (SHA-256 {file.digest})")

    def person(self, job: Job) -> Any:
        return job.row.get(self.person_name)

    def prompt(self, job: Job) -> str:
        return str(job.row.get(self.prompt_name, ""))


def build(checked: CheckedPlan) -> Batch:
    """Build the jobs, with every value converted to its input's type."""
    workflow, targets = checked.workflow, checked.targets
    fitted = {
        (item.key, naming.key_of(item.value)): nodes.fitted(workflow, item.key, item.value, checked.info)
        for item in checked.values
    }
    jobs = [
        Job(
            number,
            name,
            row,
            {key: fitted[key, naming.key_of(value)] for short, value in row.items() for key in targets[short]},
        )
        for number, (name, row) in enumerate(zip(checked.names, checked.rows), 1)
    ]
    return Batch(**vars(checked), jobs=jobs)


def prompt_of(workflow: Workflow, edits: dict[InputKey, Any]) -> Workflow:
    """A copy with other values. Lists are wrapped, because a server would read them as links."""
    nodes = dict(workflow.nodes)
    for (node_id, name), value in edits.items():
        value = {"__value__": value} if isinstance(value, list) else value
        nodes[node_id] = {**nodes[node_id], "inputs": {**nodes[node_id]["inputs"], name: value}}
    return replace(workflow, nodes=nodes)
