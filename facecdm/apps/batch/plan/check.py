"""First pass: check a plan against the servers that will run it, and report all mistakes at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....comfy_api.errors import WorkflowMistake
from ....comfy_api.workflow import Workflow
from ..errors import PlanMistake
from . import naming, nodes
from .nodes import PlanValue
from .plan import Plan
from .rows import Row, Upload, expand
from .targets import Targets, resolve, role
from .uploads import LocalFile, find_uploads


@dataclass(frozen=True)
class CheckedPlan:
    """
    plan         the plan as written
    workflow     the workflow as read
    targets      short name → inputs
    rows         one row per job: short name → value
    names        relative path of each job's image, without suffix
    files        local files to upload, by path
    values       one entry per value and input
    info         /object_info of a server
    person_name  short name of the reference
    prompt_name  short name of the prompt
    """

    plan: Plan
    workflow: Workflow
    targets: Targets
    rows: list[Row]
    names: list[str]
    files: dict[Path, LocalFile]
    values: list[PlanValue]
    info: dict[str, Any]
    person_name: str | None
    prompt_name: str | None


def check(plan: Plan, infos: dict[str, dict[str, Any]], recorded: Sequence[dict[str, Any]] = ()) -> CheckedPlan:
    """Check a plan. Raises PlanMistake with all mistakes.

    infos     server → its /object_info; at least one
    recorded  values of the jobs in the journal of the output folder; their files may be gone
    """
    mistakes: list[str] = []
    rows = expand(plan.jobs, plan.folders, mistakes)
    try:
        workflow = plan.read_workflow()
    except WorkflowMistake as error:
        raise PlanMistake([*mistakes, str(error)]) from error
    targets = resolve(plan, workflow, rows, mistakes)
    keys = {key for found in targets.values() for key in found}
    info = next(iter(infos.values()))
    rows, files = find_uploads(plan, rows, targets, nodes.file_inputs(workflow, keys, info), recorded, mistakes)
    values = _values(rows, targets)
    mistakes += _by_server(
        {server: list(nodes.mistakes_of(workflow, keys, values, info)) for server, info in infos.items()}
    )
    references = {name for name in targets if any(isinstance(row.get(name), Upload) for row in rows)}
    texts = {name for name, found in targets.items() if any(key[1] in ("text", "prompt") for key in found)}
    person = role(plan, "person", targets, references, mistakes)
    prompt = role(plan, "prompt", targets, texts, mistakes)
    if plan.keep_best:
        for key, name, candidates in (("person", person, references), ("prompt", prompt, texts)):
            if name is None and len(candidates) > 1:
                mistakes.append(
                    f"keep_best: {' and '.join(sorted(candidates))} could each be the {key}: name one under `{key}`"
                )
    template = plan.name or (f"{{{person}}}/{{job}}" if person else "{job}")
    names = naming.names(template, rows, mistakes) if rows else []
    if mistakes:
        raise PlanMistake(mistakes)
    return CheckedPlan(plan, workflow, targets, rows, names, files, values, info, person, prompt)


def _values(rows: Iterable[Row], targets: Targets) -> list[PlanValue]:
    """One entry per value and input."""
    found: dict[tuple[nodes.InputKey, str], PlanValue] = {}
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            for key in targets[name]:
                label = f"{name} ({key[1]} of node {key[0]}), job {number}"
                found.setdefault((key, naming.key_of(value)), PlanValue(key, label, value))
    return list(found.values())


def _by_server(found: dict[str, list[str]]) -> list[str]:
    """The mistakes of all servers. A mistake on only some of them gets their names."""
    servers: dict[str, list[str]] = {}
    for server, lines in found.items():
        for line in lines:
            servers.setdefault(line, []).append(server)
    return [line if len(names) == len(found) else f"{line} (on {', '.join(names)})" for line, names in servers.items()]
