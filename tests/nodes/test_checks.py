"""What the server lets through and the nodes refuse; warnings; the names of error types."""

import math
from inspect import signature

import pytest


def entries(in_comfy, node_id: str, *kinds: str) -> dict:
    """A node's inputs of some kinds, by name."""
    inputs = in_comfy.nodes[node_id].define_schema().inputs
    return {entry.id: entry for entry in inputs if entry.get_io_type() in kinds}


def run_with(in_comfy, node_id: str, **changes) -> None:
    """Run a node with its widgets' defaults, with nothing in its sockets, and with `changes`."""
    given = {}
    for entry in in_comfy.nodes[node_id].define_schema().inputs:
        default = getattr(entry, "default", None)
        given[entry.id] = entry.options[0] if default is None and entry.get_io_type() == "COMBO" else default
    in_comfy.run(node_id, **given | changes)


def test_a_number_out_of_range_is_refused_with_its_name(in_comfy, errors):
    """NaN and linked numbers pass the server's own check."""
    numbers = {(node_id, name) for node_id in in_comfy.nodes for name in entries(in_comfy, node_id, "FLOAT", "INT")}
    for node_id, name in numbers:
        for value in (math.nan, math.inf, -math.inf, 10**400, -(10**9), "7", [1]):
            with pytest.raises(errors.FaceCDMError, match=f"{name} must be a number from") as caught:
                run_with(in_comfy, node_id, **{name: value})
            assert len(str(caught.value)) <= 1000
    assert len(numbers) > 100


def test_an_unknown_choice_is_refused_with_its_name(in_comfy, errors):
    """The server of ComfyUI 0.3.75 checks no choice. Names of files are checked by validate_inputs or execute."""
    choices = {(node_id, name) for node_id in in_comfy.nodes for name in entries(in_comfy, node_id, "COMBO")}
    own = {(node_id, name) for node_id, name in choices if name in getattr(in_comfy.nodes[node_id], "OWN_CHECKS", ())}
    files = {(node_id, name) for node_id, name in choices if name in validated(in_comfy, node_id)} | own
    for node_id, name in choices - files:
        for value in ("wavy", None):
            with pytest.raises(errors.FaceCDMError, match=f"{name} must be one of .*; got '{value}'"):
                run_with(in_comfy, node_id, **{name: value})
    for node_id, name in files:
        with pytest.raises(errors.FaceCDMError, match=f"{name} must be a text; got None"):
            run_with(in_comfy, node_id, **{name: None})
    assert {name for _, name in files} == {"pack", "name", "file", "folder", "vision_tower"} and len(choices) > 30


def test_the_check_before_the_queue_takes_what_a_client_can_write(in_comfy):
    """A text of any length, or no text. None is a link."""
    checked = [(node, name) for node_id, node in in_comfy.nodes.items() for name in validated(in_comfy, node_id)]
    for node, name in checked:
        for value in (7, math.nan, True, [], [1], {}, {"a": 1}):
            assert f"{name} must be a text" in node.validate_inputs(**{name: value})
        for value in ("x" * 2**20, "\ud800", "a\0b"):
            assert 0 < len(node.validate_inputs(**{name: value})) <= 1000, (node, value[:9])
        assert node.validate_inputs(**{name: None}) is True
    assert len(checked) >= 8


def test_a_socket_takes_no_written_value(in_comfy, errors):
    sockets = [
        (node_id, entry)
        for node_id, node in in_comfy.nodes.items()
        for entry in node.define_schema().inputs
        if entry.get_io_type() in ("MODEL", "IMAGE", "FACES", "CONDITIONING", "FACECDM_ADAPTER")
    ]
    for node_id, entry in sockets:
        for value in ("x", 7, math.nan, {}, *([] if entry.optional else [None])):
            with pytest.raises(errors.FaceCDMError, match=f"{entry.id} must be connected to a node that gives"):
                in_comfy.run(node_id, **{entry.id: value})
    assert len(sockets) > 30


def test_one_mistake_is_one_error(in_comfy):
    """The server repeats a message for every input that validate_inputs takes."""
    assert all(len(validated(in_comfy, node_id)) <= 1 for node_id in in_comfy.nodes)


def validated(in_comfy, node_id: str) -> list[str]:
    """Inputs of the node's own validate_inputs."""
    node = in_comfy.nodes[node_id]
    return list(signature(node.validate_inputs).parameters) if "validate_inputs" in vars(node) else []


def test_an_error_type_shows_no_local_path(in_comfy, errors):
    """ComfyUI reports `module.name`, and imports the pack under the path of its folder."""
    assert errors.FaceCDMError.__module__ == errors.NoFace.__module__ == "facecdm.errors"
    assert in_comfy.module("facecdm.faces.value").BadFace.__module__ == "facecdm.faces.value"
    assert in_comfy.module("facecdm.comfy_api.errors").JobLost.__module__ == "facecdm.comfy_api.errors"


def test_a_long_message_keeps_its_start_and_its_end(errors):
    text = str(errors.BadFile("first" + "x" * 5000 + "last"))
    assert len(text) <= 1000 and text.startswith("first") and text.endswith("last")


def test_warnings_are_shown_on_the_node_and_logged(in_comfy, caplog):
    output = in_comfy.module("nodes.warn").output
    assert output(1).ui is None
    assert output(1, warnings=["pose has no effect."]).ui == {"facecdm_warnings": ["pose has no effect."]}
    assert "FaceCDM: pose has no effect." in caplog.text
