"""Map a plan's short names to inputs of the workflow."""

from ....comfy_api.errors import WorkflowMistake
from ....comfy_api.workflow import Workflow
from ..results.table import COLUMNS, WARNINGS
from .nodes import InputKey, label_of
from .plan import Plan
from .rows import Row

Targets = dict[str, list[InputKey]]


def resolve(plan: Plan, workflow: Workflow, rows: list[Row], mistakes: list[str]) -> Targets:
    """Short name → inputs. A name that is not declared under `inputs` must be an input itself ("Prompt.text")."""
    used = {name: None for row in rows for name in row}
    reserved = {*COLUMNS, WARNINGS} & used.keys()
    mistakes += [f"jobs: {name!r} is a column of results.csv: choose another name" for name in used if name in reserved]
    targets: Targets = {}
    for name in used:
        declared = plan.inputs.get(name, name)
        targets[name] = []
        for target in [declared] if isinstance(declared, str) else declared or []:
            try:
                targets[name].append(_input(workflow, target, declared=name in plan.inputs))
            except WorkflowMistake as error:
                mistakes.append(f"inputs, {name!r}: {error}")
    mistakes += [f"inputs: {name!r} gets no value in jobs" for name in plan.inputs if rows and name not in used]
    owner: dict[InputKey, str] = {}
    for name, keys in targets.items():
        for key in keys:
            if owner.setdefault(key, name) != name:
                mistakes.append(f"inputs: {name!r} and {owner[key]!r} both set {'.'.join(key)}")
    return targets


def role(plan: Plan, key: str, targets: Targets, candidates: set[str], mistakes: list[str]) -> str | None:
    """The short name given by `person` or `prompt`, else the only candidate, else None."""
    name = getattr(plan, key)
    if name in targets:
        return name
    if key in plan.model_fields_set:
        mistakes.append(f"{key}: jobs give {name!r} no value")
    return next(iter(candidates)) if len(candidates) == 1 else None


def _input(workflow: Workflow, target: str, declared: bool) -> InputKey:
    """ "Node.input" as (id, input); titles and inputs may contain dots. Raises WorkflowMistake."""
    dots = [index for index, letter in enumerate(target) if letter == "."]
    for dot in dots:
        node, name = target[:dot], target[dot + 1 :]
        if workflow.has(node) and name in workflow.nodes[workflow.find(node)]["inputs"]:
            return _unlinked(workflow, workflow.find(node), name)
    if not dots and not declared:
        raise WorkflowMistake(
            "no input is known for it. Name one under `inputs`, as in `prompt: Prompt.text`; "
            "set a column that no input uses to `null`"
        )
    if not dots:
        raise WorkflowMistake(f"{target!r} names no input: write Node.input, as in Prompt.text")
    node, _, name = target.rpartition(".")
    return workflow.find(node), name  # the file may lack an optional input; the server's list decides


def _unlinked(workflow: Workflow, node_id: str, name: str) -> InputKey:
    value = workflow.nodes[node_id]["inputs"][name]
    if workflow.is_link(value):
        raise WorkflowMistake(
            f"input {name!r} of {label_of(workflow, node_id)} is linked to node {value[0]}; "
            "change that node's value instead"
        )
    return node_id, name
