"""Editing workflows by title, class and id."""

import json

import pytest

from facecdm.comfy_api.errors import WorkflowMistake
from facecdm.comfy_api.workflow import Workflow

NODES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Reference"}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "", "clip": ["4", 1]},
        "_meta": {"title": "Prompt"},
    },
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
    "5": {"class_type": "KSampler", "inputs": {"seed": 1}, "_meta": {"title": "Twice"}},
    "6": {"class_type": "SaveImage", "inputs": {}, "_meta": {"title": "Twice"}},
}


@pytest.fixture
def workflow():
    return Workflow.parse(json.loads(json.dumps(NODES)), "mine.json")


@pytest.mark.parametrize(
    ("key", "found"), [("2", "2"), ("Prompt", "2"), ("Reference", "1"), ("LoadImage", "1"), ("KSampler", "5")]
)
def test_a_node_is_found_by_id_title_or_class(workflow, key, found):
    assert workflow.find(key) == found


def test_a_title_matches_before_a_class(workflow):
    assert workflow.find("CLIPTextEncode") == "3"  # the one without a title of its own


def test_mistakes_list_the_existing_names(workflow):
    with pytest.raises(WorkflowMistake, match="2 nodes are called 'Twice': name one by id .5, 6."):
        workflow.find("Twice")
    with pytest.raises(WorkflowMistake, match="no node 'Promt'; its nodes are: .*Prompt, Reference"):
        workflow.find("Promt")
    with pytest.raises(WorkflowMistake, match="'Reference' has no input 'picture'; its inputs are: image"):
        workflow.set("Reference", "picture", "b.png")
    with pytest.raises(WorkflowMistake, match="'clip' of 'Prompt' is linked to node 4"):
        workflow.set("Prompt", "clip", "x")


def test_set_returns_a_copy(workflow):
    changed = workflow.set("Prompt", "text", "a man").set("KSampler", "seed", 7)
    assert (changed.get("Prompt", "text"), changed.get("5", "seed")) == ("a man", 7)
    assert workflow.nodes == NODES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "holds no workflow"),
        ("[]", "holds no workflow"),
        ('{"nodes": [], "links": []}', "UI format.*Export .API."),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"1": 3}', "node '1' has no class_type"),
    ],
)
def test_invalid_workflow_files(tmp_path, text, message):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(WorkflowMistake, match=message):
        Workflow.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(WorkflowMistake, match="cannot read the workflow .*nowhere.json"):
        Workflow.load(tmp_path / "nowhere.json")
