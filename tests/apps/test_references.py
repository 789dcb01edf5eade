"""Reference images and examples."""

import json

import pytest

from facecdm.apps.portrait import WORKFLOW
from facecdm.apps.references import FACEWORLD_REFERENCE, copy_examples, read_references
from facecdm.errors import BadFile


def test_example_pictures_are_copied_and_existing_files_stay(tmp_path):
    (tmp_path / "faceworld.webp").write_bytes(b"mine")
    copy_examples(tmp_path)
    shipped = [json.loads(path.read_text(encoding="utf-8")) for path in WORKFLOW.parent.glob("*.json")]
    named = {
        node["inputs"]["image"] for nodes in shipped for node in nodes.values() if node["class_type"] == "LoadImage"
    }
    assert named and named <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "faceworld.webp").read_bytes() == b"mine"


def test_a_damaged_picture(tmp_path):
    path = tmp_path / "half.webp"
    path.write_bytes(FACEWORLD_REFERENCE.read_bytes()[:2000])
    with pytest.raises(BadFile, match="half.webp is no picture"):
        read_references([path])


def test_a_file_that_is_no_picture_is_named_without_addresses(tmp_path):
    (tmp_path / "notes.jpg").write_bytes(b"no picture")
    with pytest.raises(BadFile, match=r"^notes.jpg is no picture \(its content is none of PNG, [A-Z, ]+\): use"):
        read_references([tmp_path / "notes.jpg"])


def test_the_demos_references_are_two_people_whom_it_can_show():
    assert [item.name for item in read_references(None)] == ["faceworld.webp", "faceworld-2.webp"]
