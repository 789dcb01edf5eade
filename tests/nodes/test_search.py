"""Nodes are found by the names that users know, where ComfyUI's schemas have such names."""

import re

import pytest

SUBJECT = re.compile(r"FaceCDM|Face|Identity|Person|Pose|LoRA|EVA CLIP")
WORDS = ("instantid", "pulid", "ipadapter", "faceid", "identity", "face swap", "consistent character")


@pytest.fixture
def found(in_comfy, monkeypatch):
    """Aliases by node id, with a Schema as newer versions have it."""
    from comfy_api.latest import io

    given = {}

    class Schema(io.Schema):
        def __init__(self, search_aliases=(), **fields):
            super().__init__(**fields)
            given[fields["node_id"]] = list(search_aliases)

    monkeypatch.setattr(io, "Schema", Schema)
    for node in in_comfy.nodes.values():
        node.define_schema()
    return given


def test_display_names_stand_alone(in_comfy):
    """Seen in a list of all packs' nodes: each says what it acts on, and none is another node's name."""
    import nodes

    names = [node.GET_SCHEMA().display_name for node in in_comfy.nodes.values()]
    assert [name for name in names if not SUBJECT.search(name)] == []
    assert len(set(names)) == len(names)
    assert not set(names) & set(nodes.NODE_DISPLAY_NAME_MAPPINGS.values())


@pytest.mark.parametrize("word", WORDS)
def test_a_known_name_finds_a_node(found, word):
    assert [node for node, aliases in found.items() if word in aliases]


def test_aliases_are_passed_to_a_schema_that_knows_them(in_comfy, monkeypatch):
    from comfy_api.latest import io

    aliases = in_comfy.module("nodes.new_fields").aliases
    monkeypatch.setattr(io, "Schema", lambda node_id: None)
    assert aliases("pulid") == {}
    monkeypatch.setattr(io, "Schema", lambda node_id, search_aliases: None)
    assert aliases("pulid") == {"search_aliases": ["pulid"]}
