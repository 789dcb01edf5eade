"""The JSON of a subgraph blueprint: several nodes as one, offered by ComfyUI's node library (0.33 and later)."""

import json
import uuid
from dataclasses import dataclass

from .parts import Node, downloads

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
INSIDE, OUTSIDE = -10, -20  # ids of a subgraph's input and output nodes
COLUMN, ROW = 360, 640


@dataclass(frozen=True)
class Blueprint:
    """A subgraph. Links are as in parts.py; "@in:NAME" is an input of the subgraph.

    inputs   name and type of each
    outputs  name and link of each
    widgets  name on the one node, and (node, widget) inside
    """

    name: str
    description: str
    nodes: dict[str, Node]
    inputs: dict[str, str]
    outputs: dict[str, str]
    widgets: dict[str, tuple[str, str]]


def text(blueprint: Blueprint, info: dict[str, dict]) -> str:
    return json.dumps(definition(blueprint, info), indent=2, ensure_ascii=False) + "\n"


def definition(blueprint: Blueprint, info: dict[str, dict]) -> dict:
    """The JSON of a blueprint. `info` is the server's /object_info."""
    ids = {name: number for number, name in enumerate(blueprint.nodes, 1)}
    given = [*blueprint.inputs, *blueprint.widgets]
    links: list[dict] = []

    def link(source: str, target: int, slot: int, kind: str) -> int:
        name, _, rest = source[1:].partition(":")
        origin = (INSIDE, given.index(rest)) if name == "in" else (ids[name], int(rest or 0))
        links.append(dict(id=len(links) + 1, origin_id=origin[0], origin_slot=origin[1]))
        links[-1] |= {"target_id": target, "target_slot": slot, "type": kind}
        return len(links)

    nodes = []
    for name, node in blueprint.nodes.items():
        shown = {widget: outer for outer, (inner, widget) in blueprint.widgets.items() if inner == name}
        nodes.append(_node(ids[name], node, info[node.kind], link, shown))
    widgets = {
        name: _widget(blueprint.nodes[inner], widget, info) for name, (inner, widget) in blueprint.widgets.items()
    }
    entries = blueprint.inputs | {name: kind for name, (kind, _) in widgets.items()}
    kinds = {}
    for name, source in blueprint.outputs.items():
        node, _, slot = source[1:].partition(":")
        kinds[name] = info[blueprint.nodes[node].kind]["output"][int(slot or 0)]
    for slot, (name, source) in enumerate(blueprint.outputs.items()):
        link(source, OUTSIDE, slot, kinds[name])
    for node in nodes:
        for slot, output in enumerate(node["outputs"]):
            output["links"] = _ids(links, origin_id=node["id"], origin_slot=slot)
    key = _uuid(blueprint.name)
    subgraph = {
        "id": key,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INSIDE, "bounding": [-200, 0, 128, 128]},
        "outputNode": {"id": OUTSIDE, "bounding": [COLUMN * len(nodes), 0, 128, 128]},
        "inputs": [
            _end(blueprint.name, name, kind, _ids(links, origin_id=INSIDE, origin_slot=slot), "in")
            for slot, (name, kind) in enumerate(entries.items())
        ],
        "outputs": [
            _end(blueprint.name, name, kinds[name], _ids(links, target_id=OUTSIDE, target_slot=slot), "out")
            for slot, name in enumerate(blueprint.outputs)
        ],
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": links,
        "extra": {},
        "category": "FaceCDM",
        "description": blueprint.description,
    }
    outer = {
        "id": 1,
        "type": key,
        "pos": [0, 0],
        "size": [300, 160],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": name, "type": kind, "link": None} | ({"widget": {"name": name}} if name in widgets else {})
            for name, kind in entries.items()
        ],
        "outputs": [{"name": name, "type": kinds[name], "links": []} for name in blueprint.outputs],
        "title": blueprint.name,
        "properties": {"proxyWidgets": [["-1", name] for name in widgets]},
        "widgets_values": [value for _, value in widgets.values()],
    }
    return {
        "id": _uuid(f"{blueprint.name}/file"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outer],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _entries(info: dict) -> dict[str, tuple[str, list, bool]]:
    """Type, declaration and "optional?" of a node's inputs."""
    return {
        name: (("COMBO" if isinstance(spec[0], list) else spec[0]), spec, part == "optional")
        for part in ("required", "optional")
        for name, spec in info["input"].get(part, {}).items()
    }


def _widget(node: Node, name: str, info: dict) -> tuple[str, object]:
    """Type and value of a widget."""
    kind, spec, _ = _entries(info[node.kind])[name]
    return kind, _value(node, name, spec)


def _node(number: int, node: Node, info: dict, link, shown: dict[str, str]) -> dict:
    """A node of a subgraph: sockets first, then widgets; `shown` widgets are inputs of the subgraph, by these names.

    Raises KeyError for an input that the node does not have.
    """
    entries = _entries(info)
    if unknown := set(node.inputs) - set(entries):
        raise KeyError(f"{node.kind} has no {', '.join(sorted(unknown))}")
    ordered = sorted(entries, key=lambda name: entries[name][0] in WIDGETS)
    inputs, values = [], []
    for slot, name in enumerate(ordered):
        kind, spec, optional = entries[name]
        entry = {"name": name, "type": kind, "link": None} | ({"shape": 7} if optional else {})
        if kind in WIDGETS:
            entry["widget"] = {"name": name}
            if name in shown:
                entry["link"] = link(f"@in:{shown[name]}", number, slot, kind)
            values.append(_value(node, name, spec))
            if len(spec) > 1 and spec[1].get("control_after_generate", name == "seed"):
                values.append("fixed")  # of the widget that the frontend adds
        elif name in node.inputs:
            entry["link"] = link(node.inputs[name], number, slot, kind)
        inputs.append(entry)
    outputs = [{"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"])]
    return {
        "id": number,
        "type": node.kind,
        "pos": [COLUMN * (number - 1), 0],
        "size": [300, ROW],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind} | downloads(values),
        "widgets_values": values,
    }


def _value(node: Node, name: str, spec: list):
    if name in node.inputs:
        return node.inputs[name]
    declared = spec[1] if len(spec) > 1 else {}
    options = spec[0] if isinstance(spec[0], list) else declared.get("options", (0,))
    return declared.get("default", options[0])


def _ids(links: list[dict], **ends: int) -> list[int]:
    return [link["id"] for link in links if all(link[key] == value for key, value in ends.items())]


def _end(blueprint: str, name: str, kind: str, links: list[int], side: str) -> dict:
    return {"id": _uuid(f"{blueprint}/{side}/{name}"), "name": name, "type": kind, "linkIds": links}


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"facecdm/subgraphs/{name}"))
