"""Subgraph blueprints fit the nodes: each file is what its script makes of the nodes' present schemas."""

import json

import pytest

from workflows.source.blueprints import BLUEPRINTS, FOLDER, text


@pytest.fixture(scope="module")
def info(in_comfy):
    """As the server's /object_info."""
    import nodes

    found = {node_id: node.GET_NODE_INFO_V1() for node_id, node in in_comfy.nodes.items()}
    loader = nodes.ControlNetLoader
    found["ControlNetLoader"] = {
        "input": loader.INPUT_TYPES(),
        "output": loader.RETURN_TYPES,
        "output_name": loader.RETURN_TYPES,
    }
    return json.loads(json.dumps(found))


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda blueprint: blueprint.name)
def test_the_file_fits_the_nodes(info, blueprint):
    written = (FOLDER / f"{blueprint.name}.json").read_text(encoding="utf-8")
    assert written == text(blueprint, info), "run workflows/source/blueprints.py again"
    (graph,) = json.loads(written)["definitions"]["subgraphs"]
    kinds = {
        (node["id"], slot): output["type"] for node in graph["nodes"] for slot, output in enumerate(node["outputs"])
    }
    kinds |= {(-10, slot): entry["type"] for slot, entry in enumerate(graph["inputs"])}
    wanted = {(node["id"], slot): entry["type"] for node in graph["nodes"] for slot, entry in enumerate(node["inputs"])}
    wanted |= {(-20, slot): entry["type"] for slot, entry in enumerate(graph["outputs"])}
    for link in graph["links"]:
        assert link["type"] == kinds[link["origin_id"], link["origin_slot"]]
        assert link["type"] == wanted[link["target_id"], link["target_slot"]]
    assert all(entry["linkIds"] for entry in (*graph["inputs"], *graph["outputs"]))


def test_no_file_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.json")} == {blueprint.name for blueprint in BLUEPRINTS}
