"""The weights say how large the demo's pictures are; what a user reads and opens agrees with it."""

import json

import pytest

from facecdm.bases.demo import DEMO
from facecdm.demo.weights import read_sizes
from facecdm.errors import BadFile, MissingModel
from facecdm.files import REPOSITORY

DEMO_NODE, SIZES = "FaceCDMLoadDemoModel", ("EmptyLatentImage", "ImageScale")
PAGES = [f"web/docs/FaceCDMLoadDemoModel{page}" for page in (".md", "/zh.md")]


@pytest.fixture(scope="module")
def side() -> int:
    return read_sizes().image_size


def test_the_base_has_the_same_size(side):
    assert (DEMO.resolution, DEMO.step) == (side, read_sizes().downscale)


def test_the_workflows_have_the_same_size(side):
    seen = 0
    for path in sorted((REPOSITORY / "workflows" / "api").glob("*.json")):
        nodes = json.loads(path.read_text(encoding="utf-8")).values()
        if any(node["class_type"] == DEMO_NODE for node in nodes):
            heights = [node["inputs"]["height"] for node in nodes if node["class_type"] in SIZES]
            assert set(heights) <= {side}, path.name
            seen += len(heights)
    assert seen


@pytest.mark.parametrize("page", ["README.md", "README_zh.md", *PAGES, "locales/zh/nodeDefs.json"])
def test_the_texts_have_the_same_size(side, page):
    assert f"{side} × {side}" in (REPOSITORY / page).read_text(encoding="utf-8")


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    with pytest.raises(MissingModel, match="none.safetensors"):
        read_sizes(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadFile, match="bad.safetensors"):
        read_sizes(tmp_path / "bad.safetensors")
