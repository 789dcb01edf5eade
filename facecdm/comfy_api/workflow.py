"""Workflows in API form: {node id: {class_type, inputs, _meta: {title}}}. Changed by copy, never in place."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import WorkflowMistake


@dataclass(frozen=True)
class Workflow:
    """One workflow. `nodes` is what the server's /prompt takes; treat it as read-only."""

    nodes: dict[str, dict[str, Any]]
    name: str = "workflow"

    @classmethod
    def load(cls, path: Path) -> "Workflow":
        """Reads an API-format JSON file; raises WorkflowMistake where it is something else."""
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise WorkflowMistake(f"cannot read the workflow {path}: {error.strerror}") from error
        except ValueError as error:
            raise WorkflowMistake(f"{path} is not JSON: {error}") from error
        return cls.parse(data, path.name)

    @classmethod
    def parse(cls, data: Any, name: str = "workflow") -> "Workflow":
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
        """The id of the one node whose id, title or class is `key` (the first of these that matches)."""
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
        """Whether an input's value is the output of another node, [id, slot]."""
        return isinstance(value, list) and len(value) == 2 and str(value[0]) in self.nodes

    def get(self, node: str, input_name: str) -> Any:
        node_id = self.find(node)
        inputs = self.nodes[node_id]["inputs"]
        if input_name not in inputs:
            raise WorkflowMistake(
                f"{self.name}: node {self.title(node_id)!r} has no input {input_name!r}; "
                f"its inputs are: {', '.join(inputs) or 'none'}"
            )
        return inputs[input_name]

    def set(self, node: str, input_name: str, value: Any) -> "Workflow":
        """A copy in which one input has another value. The input must be there already, and not be a link."""
        old = self.get(node, input_name)
        if self.is_link(old):
            raise WorkflowMistake(
                f"{self.name}: input {input_name!r} of {node!r} is linked to node {old[0]}; "
                f"change that node's value instead"
            )
        nodes = copy.deepcopy(self.nodes)
        nodes[self.find(node)]["inputs"][input_name] = value
        return Workflow(nodes, self.name)
