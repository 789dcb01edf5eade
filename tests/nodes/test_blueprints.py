"""Subgraph blueprints fit the nodes: each file is what its script makes of the nodes' present schemas."""

import json

import pytest

from facecdm.models.needs import of_workflow
from workflows.source.blueprints import BLUEPRINTS, FOLDER, text

# As in ComfyUI 0.3.75 and 0.33.0; their modules are imported by a server only.
EXTRAS = {
    "SaveLoRA": {
        "input": {
            "required": {"lora": ["LORA_MODEL"], "prefix": ["STRING", {"default": "loras/ComfyUI_trained_lora"}]},
            "optional": {"steps": ["INT"]},
        },
        "output": [],
        "output_name": [],
    },
    "ImageStitch": {
        "input": {
            "required": {
                "image1": ["IMAGE"],
                "direction": [["right", "down", "left", "up"], {"default": "right"}],
                "match_image_size": ["BOOLEAN", {"default": True}],
                "spacing_width": ["INT", {"default": 0}],
                "spacing_color": [["white", "black", "red", "green", "blue"], {"default": "white"}],
            },
            "optional": {"image2": ["IMAGE"]},
        },
        "output": ["IMAGE"],
        "output_name": ["IMAGE"],
    },
}


@pytest.fixture(scope="module")
def info(in_comfy):
    """As the server's /object_info."""

    import nodes

    found = {node_id: node.GET_NODE_INFO_V1() for node_id, node in in_comfy.nodes.items()}
    for name in ("ControlNetLoader", "ConditioningSetMask", "ConditioningCombine", "EmptyImage"):
        core = getattr(nodes, name)
        found[name] = {"input": core.INPUT_TYPES(), "output": core.RETURN_TYPES, "output_name": core.RETURN_TYPES}
    return json.loads(json.dumps(found | EXTRAS))


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


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_missing_models_are_offered(path):
    """As in the workflows: under the widget's value, with link and folder."""
    (graph,) = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    offered = {model["name"] for node in graph["nodes"] for model in node["properties"].get("models", ())}
    wanted = {file.choice for file in of_workflow(path).files if file.in_browser}
    assert offered == wanted and bool(wanted) == (
        any(name in path.stem for name in ("PlusV2", "InstantID", "PuLID", "FLUX.1"))
    )


def test_no_file_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.json")} == {blueprint.name for blueprint in BLUEPRINTS}
