"""Jobs that are ready to be queued: a plan, checked against the servers that are to do it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...comfy_api.errors import WorkflowMistake
from ...comfy_api.names import sanitise_filename
from ...comfy_api.workflow import Workflow
from ...errors import BadFile
from ..references import reference
from . import check, naming
from .check import Given, Place
from .errors import PlanMistake
from .plan import Plan
from .rows import Row, Upload, expand

SHOWN = 40  # mistakes that are listed one by one
# Of results.csv, before the plan's own.
COLUMNS = ("job", "file", "state", "message", "server", "seconds", "attempts", "identity", "faces", "detection")


@dataclass(frozen=True)
class File:
    """What an Upload holds: `name` is the one that servers are asked to store it under."""

    path: Path
    digest: str
    name: str


@dataclass(frozen=True)
class Job:
    """One run of the workflow. `edits`: place → value or Upload; `row`: what the plan says, by short name."""

    number: int
    name: str
    row: Row
    edits: dict[Place, Any]


@dataclass(frozen=True)
class Batch:
    plan: Plan
    workflow: Workflow
    targets: dict[str, list[Place]]
    jobs: list[Job]
    files: dict[Path, File]
    given: list[Given]
    person_name: str | None
    prompt_name: str | None

    def record(self) -> dict[str, Any]:
        """What makes this batch this batch, as JSON: what a journal is compared with."""
        return {
            "workflow": self.workflow.nodes,
            "inputs": {name: [".".join(place) for place in places] for name, places in self.targets.items()},
            "jobs": [
                {"name": job.name, **{name: self._recorded(value) for name, value in job.row.items()}}
                for job in self.jobs
            ],
        }

    def _recorded(self, value: Any) -> Any:
        if not isinstance(value, Upload):
            return value
        return f"{value.path.name} (SHA-256 {self.files[value.path].digest})"

    def person(self, job: Job) -> Any:
        return job.row.get(self.person_name)

    def prompt(self, job: Job) -> str:
        return str(job.row.get(self.prompt_name, ""))


def prepare(plan: Plan, infos: dict[str, dict[str, Any]]) -> Batch:
    """Checks everything against every server's /object_info; raises PlanMistake with all that is wrong."""
    mistakes: list[str] = []
    rows = expand(plan.jobs, plan.at("."), mistakes)
    try:
        workflow = plan.read_workflow()
    except WorkflowMistake as error:
        raise PlanMistake([*mistakes, str(error)]) from error
    targets = resolve(plan, workflow, rows, mistakes)
    places = {place for found in targets.values() for place in found}
    files: dict[Path, File] = {}
    for info in list(infos.values())[:1]:
        rows = _with_uploads(plan, rows, targets, check.file_places(workflow, places, info), files, mistakes)
    given = _given(rows, targets)
    mistakes += _on_servers(
        {server: list(check.mistakes_of(workflow, places, given, info)) for server, info in infos.items()}
    )
    pictures = {name for name, found in targets.items() if any(isinstance(row.get(name), Upload) for row in rows)}
    words = {name for name, found in targets.items() if any(place[1] in ("text", "prompt") for place in found)}
    person = _role(plan, "person", targets, pictures, mistakes)
    prompt = _role(plan, "prompt", targets, words, mistakes)
    template = plan.name or (f"{{{person}}}/{{job}}" if person else "{job}")
    names = naming.names(template, rows, mistakes) if rows else []
    if mistakes:
        raise PlanMistake(mistakes[:SHOWN] + [f"… and {len(mistakes) - SHOWN} more"] * (len(mistakes) > SHOWN))
    info = next(iter(infos.values()))
    fits = {
        (item.place, naming.key_of(item.value)): check.fitted(workflow, item.place, item.value, info) for item in given
    }
    jobs = [
        Job(
            number,
            name,
            row,
            {place: fits[place, naming.key_of(value)] for short, value in row.items() for place in targets[short]},
        )
        for number, (name, row) in enumerate(zip(names, rows), 1)
    ]
    return Batch(plan, workflow, targets, jobs, files, given, person, prompt)


def resolve(plan: Plan, workflow: Workflow, rows: list[Row], mistakes: list[str]) -> dict[str, list[Place]]:
    """Short name → inputs. A name that is not declared names its input itself ("Prompt.text")."""
    used = {name: None for row in rows for name in row}
    mistakes += [f"jobs: {name!r} is a column of results.csv: choose another name" for name in used if name in COLUMNS]
    targets: dict[str, list[Place]] = {}
    for name in used:
        told = plan.inputs.get(name, name)
        targets[name] = []
        for target in [told] if isinstance(told, str) else told or []:
            try:
                targets[name].append(_place(workflow, target, declared=name in plan.inputs))
            except WorkflowMistake as error:
                mistakes.append(f"inputs, {name!r}: {error}")
    mistakes += [f"inputs: {name!r} gets no value in jobs" for name in plan.inputs if rows and name not in used]
    owner: dict[Place, str] = {}
    for name, found in targets.items():
        for place in found:
            if owner.setdefault(place, name) != name:
                mistakes.append(f"inputs: {name!r} and {owner[place]!r} both set {'.'.join(place)}")
    return targets


def _role(plan: Plan, role: str, targets: dict, likely: set[str], mistakes: list[str]) -> str | None:
    """The short name that is the person, or the prompt: the one that the plan says, else the only likely one."""
    name = getattr(plan, role)
    if name in targets:
        return name
    if role in plan.model_fields_set:
        mistakes.append(f"{role}: jobs give {name!r} no value")
    return next(iter(likely)) if len(likely) == 1 else None


def _place(workflow: Workflow, target: str, declared: bool) -> Place:
    """ "Node.input" as (id, input); titles and inputs may have dots in them."""
    dots = [index for index, letter in enumerate(target) if letter == "."]
    for dot in dots:
        node, name = target[:dot], target[dot + 1 :]
        if workflow.has(node) and name in workflow.nodes[workflow.find(node)]["inputs"]:
            return _unlinked(workflow, workflow.find(node), name)
    if not dots and not declared:
        raise WorkflowMistake(
            "what is it? Name its input under `inputs`, as in `prompt: Prompt.text`; "
            "a column that goes nowhere is declared as `null`"
        )
    if not dots:
        raise WorkflowMistake(f"{target!r} names no input: write Node.input, as in Prompt.text")
    node, _, name = target.rpartition(".")
    return workflow.find(node), name  # it may be optional, and not be in the file: the server knows


def _unlinked(workflow: Workflow, node_id: str, name: str) -> Place:
    value = workflow.nodes[node_id]["inputs"][name]
    if workflow.is_link(value):
        raise WorkflowMistake(
            f"input {name!r} of {check.name_of(workflow, node_id)} is linked to node {value[0]}; "
            "change that node's value instead"
        )
    return node_id, name


def _with_uploads(
    plan: Plan,
    rows: list[Row],
    targets: dict[str, list[Place]],
    places: dict[Place, dict],
    files: dict[Path, File],
    mistakes: list[str],
) -> list[Row]:
    """The rows, with an Upload for the name of every local file that goes where a file is taken."""
    names = {name for name, found in targets.items() if any(place in places for place in found)}
    pictures = {name for name in names if any(places.get(place, {}).get("image_upload") for place in targets[name])}
    problems: dict[str, None] = {}

    def local(name: str, value: Any) -> Any:
        if name in names and isinstance(value, str) and value and plan.at(value).is_file():
            value = Upload(plan.at(value))
        if isinstance(value, Upload) and value.path not in files:
            try:
                files[value.path] = _read(value.path, name in pictures)
            except (BadFile, OSError) as error:
                problems[f"{name}: {value.path}: {getattr(error, 'strerror', None) or error}"] = None
        return value

    rows = [{name: local(name, value) for name, value in row.items()} for row in rows]
    mistakes += problems
    return rows


def _read(path: Path, picture: bool) -> File:
    data = path.read_bytes()
    if picture:
        reference(path.name, data)
    digest = hashlib.sha256(data).hexdigest()
    return File(path, digest, sanitise_filename(f"{path.stem[:60]}-{digest[:12]}{path.suffix}"))


def _given(rows: Iterable[Row], targets: dict[str, list[Place]]) -> list[Given]:
    """Each value once for each input that it goes to."""
    found: dict[tuple[Place, str], Given] = {}
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            for place in targets[name]:
                label = f"{name} ({place[1]} of node {place[0]}), job {number}"
                found.setdefault((place, naming.key_of(value)), Given(place, label, value))
    return list(found.values())


def _on_servers(found: dict[str, list[str]]) -> list[str]:
    """The mistakes of all servers; those of some only with their names."""
    where: dict[str, list[str]] = {}
    for server, lines in found.items():
        for line in lines:
            where.setdefault(line, []).append(server)
    return [
        line if len(servers) == len(found) else f"{line} (on {', '.join(servers)})" for line, servers in where.items()
    ]


def with_values(workflow: Workflow, edits: dict[Place, Any]) -> Workflow:
    """A copy of the workflow with other values; lists are wrapped, else a server would take them for links."""
    nodes = dict(workflow.nodes)
    for (node_id, name), value in edits.items():
        value = {"__value__": value} if isinstance(value, list) else value
        nodes[node_id] = {**nodes[node_id], "inputs": {**nodes[node_id]["inputs"], name: value}}
    return replace(workflow, nodes=nodes)
