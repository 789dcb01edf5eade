"""Reference images and examples."""

import json

import numpy as np
import pytest
from PIL import Image

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
    with pytest.raises(BadFile, match=r"^notes.jpg is no picture \(it is in none of the formats PNG, [A-Z, ]+\): use"):
        read_references([tmp_path / "notes.jpg"])


def test_the_demos_references_are_two_people_whom_it_can_show():
    assert [item.name for item in read_references(None)] == ["faceworld.webp", "faceworld-2.webp"]


def test_references_are_decoded_as_in_training(tmp_path):
    """On white if transparent; 16-bit grey is scaled, not clipped."""
    Image.new("RGBA", (8, 6)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((6, 8), 20000, np.uint16)).save(tmp_path / "deep.png")
    clear, deep = (item.picture for item in read_references([tmp_path / "clear.png", tmp_path / "deep.png"]))
    assert clear.getpixel((0, 0)) == (255, 255, 255) and deep.getpixel((0, 0)) == (78, 78, 78)
