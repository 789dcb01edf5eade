"""Numbers, choices and texts that an API client can send to any node: a typed error names the input."""

import math

NUMBERS = (math.nan, math.inf, -math.inf, 1e308, 10**400, -(10**400), 10**30, "7", [1], {})
CHOICES = ("", "no such choice", "../x", "x" * 10**6, 7, None, [], math.nan)


def inputs_of(node) -> dict:
    return {entry.id: entry for entry in node.define_schema().inputs}


def defaults(entries: dict) -> dict:
    """A value for each required input: its default, its first choice, or None for a socket."""
    return {
        name: entry.options[0] if entry.get_io_type() == "COMBO" else getattr(entry, "default", None)
        for name, entry in entries.items()
        if not entry.optional or getattr(entry, "default", None) is not None
    }


def refuse(in_comfy, node_id: str, name: str, value) -> str:
    """ "" where the node names the input in a typed error, else what it does instead."""
    entries = inputs_of(in_comfy.nodes[node_id])
    try:
        in_comfy.run(node_id, **defaults(entries) | {name: value})
    except in_comfy.module("facecdm.errors").FaceCDMError as error:
        text = str(error)
        return "" if name in text and len(text) <= 1000 else f"{len(text)} characters: {text[:100]}"
    except Exception as error:
        return f"untyped {type(error).__name__}: {str(error)[:100]}"
    return "silent"


def test_every_number_of_every_node(in_comfy):
    wrong, count = {}, 0
    for node_id, node in in_comfy.nodes.items():
        for name, entry in inputs_of(node).items():
            if entry.get_io_type() in ("FLOAT", "INT"):
                for value in NUMBERS:
                    count += 1
                    if text := refuse(in_comfy, node_id, name, value):
                        wrong[node_id, name, str(value)[:20]] = text
    assert not wrong, f"{len(wrong)} of {count}: {wrong}"
    assert count > 1000
