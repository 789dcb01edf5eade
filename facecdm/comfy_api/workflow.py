"""Workflows in API format: {node id: {class_type, inputs, _meta: {title}}}. Edits return a copy."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..documents import is_deep, parse_json, read_text
from ..errors import BadFile
from .errors import WorkflowMistake


@dataclass(frozen=True)
class Workflow:
    """
    nodes  the workflow in the form that /prompt takes; read-only
    name   name in error messages
    """

    nodes: dict[str, dict[str, Any]]
    name: str = "workflow"

    @classmethod
    def load(cls, path: Path) -> "Workflow":
        """Read a JSON file in API format. Raises WorkflowMistake."""
        path = Path(path)
        try:
            data = parse_json(read_text(path))
        except OSError as error:
            raise WorkflowMistake(f"cannot read the workflow {path}: {error.strerror}") from error
        except BadFile as error:
            raise WorkflowMistake(f"cannot read the workflow: {error}") from error
        except ValueError as error:
            raise WorkflowMistake(f"{path} is not JSON: {error}") from error
        return cls.parse(data, path.name)

    @classmethod
    def parse(cls, data: Any, name: str = "workflow") -> "Workflow":
        """Check parsed JSON. Raises WorkflowMistake."""
        if is_deep(data):
            raise WorkflowMistake(f"{name} is nested too deeply for a workflow")
        if isinstance(data, dict) and isinstance(data.get("nodes"), list):
            raise WorkflowMistake(f"{name} is in UI format: in ComfyUI choose Workflow → Export (API)")
        if not isinstance(data, dict) or not data:
            raise WorkflowMistake(f"{name} holds no workflow in API format (a JSON object of nodes)")
        for key, node in data.items():
            inputs = node.get("inputs") if isinstance(node, dict) else None
            if not isinstance(inputs, dict) or not isinstance(node.get("class_type"), str):
                raise WorkflowMistake(f"{name}: node {key!r} has no class_type and inputs: not in API format")
        return cls(data, name)

    def title(self, node_id: str) -> str:
        node = self.nodes[node_id]
        return (node.get("_meta") or {}).get("title") or node["class_type"]

    def find(self, key: str) -> str:
        """The id of the only node with this id, title or class, in this order. Raises WorkflowMistake."""
        if key in self.nodes:
            return key
        for name_of in (self.title, lambda node_id: self.nodes[node_id]["class_type"]):
            found = [node_id for node_id in self.nodes if name_of(node_id) == key]
            if len(found) == 1:
                return found[0]
            if found:
                raise WorkflowMistake(
                    f"{self.name}: {len(found)} nodes are called {key!r}: name one by id ({', '.join(found)})"
                )
        titles = ", ".join(sorted({self.title(node_id) for node_id in self.nodes}))
        raise WorkflowMistake(f"{self.name} has no node {key!r}; its nodes are: {titles}")

    def has(self, key: str) -> bool:
        try:
            self.find(key)
        except WorkflowMistake:
            return False
        return True

    def is_link(self, value: Any) -> bool:
        """Whether an input's value is a link, [node id, output]."""
        return isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes

    def get(self, node: str, input_name: str) -> Any:
        """An input's value. Raises WorkflowMistake if there is no such node or input."""
        node_id = self.find(node)
        inputs = self.nodes[node_id]["inputs"]
        if input_name not in inputs:
            raise WorkflowMistake(
                f"{self.name}: node {self.title(node_id)!r} has no input {input_name!r}; "
                f"its inputs are: {', '.join(inputs) or 'none'}"
            )
        return inputs[input_name]

    def set(self, node: str, input_name: str, value: Any) -> "Workflow":
        """A copy with a new value for one input, which must exist and must not be a link. Raises WorkflowMistake."""
        old = self.get(node, input_name)
        if self.is_link(old):
            raise WorkflowMistake(
                f"{self.name}: input {input_name!r} of {node!r} is linked to node {old[0]}; "
                f"change that node's value instead"
            )
        nodes = copy.deepcopy(self.nodes)
        nodes[self.find(node)]["inputs"][input_name] = value
        return Workflow(nodes, self.name)
