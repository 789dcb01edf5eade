"""Check a workflow and a plan's values against a server's /object_info, without queuing anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ....comfy_api.workflow import Workflow
from .rows import Upload
from .values import declarations, fit, takes_file

InputKey = tuple[str, str]  # node id, input


@dataclass(frozen=True)
class PlanValue:
    """
    key    the input that the value goes to
    label  name of the value in error messages
    value  the plan's value, or an Upload
    """

    key: InputKey
    label: str
    value: Any


def mistakes_of(
    workflow: Workflow, edited: set[InputKey], values: list[PlanValue], info: dict[str, Any]
) -> Iterator[str]:
    """One line per mistake in node classes, links, the workflow's values or the plan's values.

    edited  inputs that the plan sets; the workflow's own values for them are not checked
    """
    needed = reachable(workflow, info)
    if not any(info.get(node["class_type"], {}).get("output_node") for node in workflow.nodes.values()):
        yield f"{workflow.name} has no node that saves anything"
    for node_id, node in workflow.nodes.items():
        kind = node["class_type"]
        if not isinstance(info.get(kind), dict):
            yield f"{label_of(workflow, node_id)}: the server has no node class {kind}: is its pack installed there?"
        elif node_id in needed:
            for line in _node(workflow, node_id, edited, info):
                yield f"{label_of(workflow, node_id)}: {line}"
    for item in values:
        try:
            fitted(workflow, item.key, item.value, info)
        except ValueError as error:
            yield f"{item.label}: {error}"


def fitted(workflow: Workflow, key: InputKey, value: Any, info: dict[str, Any]) -> Any:
    """Convert the value for /prompt. An Upload is returned unchanged. Raises ValueError."""
    node_id, name = key
    kind, options = _declared(workflow, key, info)
    if kind is None:
        if name in workflow.nodes[node_id]["inputs"]:
            return value  # an input that the node adds dynamically
        offered = ", ".join(declarations(info.get(workflow.nodes[node_id]["class_type"], {})))
        raise ValueError(f"the node has no input {name!r}; its inputs are: {offered or 'none'}")
    if isinstance(value, Upload):
        if not takes_file(options) and kind != "STRING":
            raise ValueError(f"takes no file ({value.path.name})")
        return value
    if takes_file(options) and isinstance(value, str):
        return _name_on_server(value, kind, options)
    return fit(value, kind, options, info)


def file_inputs(workflow: Workflow, keys: set[InputKey], info: dict[str, Any]) -> dict[InputKey, dict[str, Any]]:
    """The inputs that take an uploaded file, with their options. Its "options" are the server's files."""
    declared = {key: _declared(workflow, key, info) for key in keys}
    return {
        key: {**options, "options": _choices(kind, options)}
        for key, (kind, options) in declared.items()
        if takes_file(options)
    }


def reachable(workflow: Workflow, info: dict[str, Any]) -> set[str]:
    """Ids of the nodes that lead to an output node. A server checks only these."""
    todo = [node_id for node_id, node in workflow.nodes.items() if info.get(node["class_type"], {}).get("output_node")]
    found: set[str] = set()
    while todo:
        node_id = todo.pop()
        if node_id not in found:
            found.add(node_id)
            inputs = workflow.nodes[node_id]["inputs"].values()
            todo += [str(value[0]) for value in inputs if workflow.is_link(value)]
    return found


def label_of(workflow: Workflow, node_id: str) -> str:
    return f"node {node_id} ({workflow.title(node_id)})"


def _declared(workflow: Workflow, key: InputKey, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    node_info = info.get(workflow.nodes[key[0]]["class_type"])
    kind, options, _ = declarations(node_info if isinstance(node_info, dict) else {}).get(key[1], (None, {}, False))
    return kind, options


def _node(workflow: Workflow, node_id: str, edited: set[InputKey], info: dict[str, Any]) -> Iterator[str]:
    node = workflow.nodes[node_id]
    declared = declarations(info[node["class_type"]])
    for name, (kind, options, required) in declared.items():
        if (node_id, name) in edited:
            continue
        if name not in node["inputs"]:
            if required and not str(kind).startswith("COMFY_"):  # V3 autogrow inputs have other names
                yield f"input {name!r} is missing"
            continue
        value = node["inputs"][name]
        if isinstance(value, list) and len(value) == 2 and not options.get("multiselect"):
            yield from _link(workflow, name, value, kind, info)
        else:
            try:
                if takes_file(options) and isinstance(value, str):
                    _name_on_server(value, kind, options)
                else:
                    wrapped = isinstance(value, dict) and "__value__" in value
                    fit(value["__value__"] if wrapped else value, kind, options, info)
            except ValueError as error:
                yield f"input {name!r}: {error}"


def _link(workflow: Workflow, name: str, link: list, kind: Any, info: dict[str, Any]) -> Iterator[str]:
    if str(link[0]) not in workflow.nodes:
        yield f"input {name!r} is linked to node {link[0]}, which is not there"
        return
    outputs = info.get(workflow.nodes[str(link[0])]["class_type"], {}).get("output")
    if not isinstance(outputs, list):
        return
    if not isinstance(link[1], int) or not 0 <= link[1] < len(outputs):
        yield f"input {name!r} is linked to output {link[1]} of node {link[0]}, which has {len(outputs)}"
        return
    both = [outputs[link[1]], kind]
    if all(isinstance(one, str) and "*" not in one and not one.startswith("COMFY_") for one in both):
        from_, to = ({part.strip() for part in one.split(",")} for one in both)
        if not from_ & to and "COMBO" not in from_ | to:
            yield f"input {name!r} takes {kind}, but is linked to {outputs[link[1]]}"


def _choices(kind: Any, options: dict[str, Any]) -> Any:
    return kind if isinstance(kind, list) else options.get("options")


def _name_on_server(value: str, kind: Any, options: dict[str, Any]) -> str:
    """Name of a file on the server. Subfolders are not in its list; the server checks those itself."""
    choices = _choices(kind, options)
    if isinstance(choices, list) and value not in choices and "/" not in value and not value.endswith("]"):
        raise ValueError(f"there is no file {value!r}, neither beside the plan nor on the server")
    return value
