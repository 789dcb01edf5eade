"""Every shipped workflow in a real browser: it opens without errors, queues its API JSON, and runs."""

import json
from pathlib import Path

import pytest
from chromium import Tab
from frontend import Frontend
from PIL import Image

from workflows.source import PLANS

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = REPOSITORY / "workflows"
NAMES = list(PLANS)
# Workflows whose adapter is a safetensors file, and its folder, which is a part of the widget's value.
PREFIXED = {"sdxl_pulid": "pulid", "flux_pulid": "pulid", "flux_withanyone": "ipadapter"}


def template(name: str) -> Path:
    return WORKFLOWS / f"{PLANS[name].title}.json"


def committed(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def comparable(workflow: dict) -> dict:
    """Without what one version writes and another does not: the view, the groups' font size, empty lists, widget values
    once more by their names, and outputs of core's nodes that are not connected.
    """
    nodes = []
    for node in workflow["nodes"]:
        values = {"widgets_values": node.get("widgets_values", []), "widgets_values_named": None}
        ours = node["type"].startswith("FaceCDM")
        outputs = [output for output in node.get("outputs", []) if ours or output["links"]]
        nodes.append(node | values | {"outputs": outputs})
    groups = [group | {"font_size": None} for group in workflow["groups"]]
    return workflow | {"nodes": nodes, "groups": groups, "extra": None}


def without_titles(nodes: dict) -> dict:
    """Core's display titles differ from version to version; tests/server/test_portrait.py compares the others."""
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in nodes.items()}


def test_every_workflow_has_a_source_and_a_square_thumbnail():
    """File names are titles in plain ASCII."""
    titles = {plan.title for plan in PLANS.values()}
    assert {path.stem for path in WORKFLOWS.glob("*.json")} == titles, "run python -m workflows.source.make"
    assert {path.stem for path in WORKFLOWS.glob("api/*.json")} == PLANS.keys()
    assert all(title.isascii() and title.startswith("FaceCDM ") for title in titles)
    for title in titles:
        width, height = Image.open(WORKFLOWS / f"{title}.jpg").size
        assert width == height


@pytest.fixture
def strange(tmp_path) -> Path:
    """A workflow with an unknown node."""
    text = template("portrait").read_text(encoding="utf-8").replace("FaceCDMApply", "FaceCDMNoSuchNode")
    path = tmp_path / "strange.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_unknown_node_is_reported(page, strange):
    """Shows that the other tests would notice one."""
    page.frontend.open(strange)
    assert page.frontend.missing() == ["FaceCDMNoSuchNode"]
    assert page.frontend.complaints()
    page.frontend.dismiss()
    assert page.frontend.complaints() == []


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_without_errors_and_queues_its_api_json(page, name):
    page.frontend.open(template(name))
    assert page.frontend.missing() == []
    folder = PREFIXED.get(name)
    if folder and page.frontend.complaints():
        # Frontends of 2025 look for the widget's value, FOLDER/NAME, in the folder, and never find it.
        (shown,) = page.frontend.complaints()
        assert shown.startswith("Missing Models") and shown.count("Download") == 1 and f"{folder} / {folder}/" in shown
        page.frontend.dismiss()
    assert page.frontend.complaints() == []
    assert without_titles(page.frontend.compiled()) == without_titles(committed(name))


def test_missing_models_are_offered_for_download(page, browser):
    """Each with its folder; the name is the one that the loader's widget has."""
    name = "sdxl_pulid"
    missing = page.touch_models(name)
    for path in missing:
        path.unlink()
    tab = Tab(browser)
    try:
        frontend = Frontend(tab, page.address)
        frontend.open(template(name))
        frontend.show_issues()
        shown = tab.js("return document.body.innerText").partition("Missing Models")[2]
        assert shown.count("Download") >= len(missing) == 3
        for path in missing:
            assert path.name in shown and path.parent.name in shown
    finally:
        page.touch_models(name)
        tab.close()


@pytest.mark.parametrize("name", NAMES)
def test_saving_it_again_changes_nothing(own_page, name):
    """The committed file is what the frontend saves, so a user's copy differs by their own changes only."""
    own_page.frontend.open(template(name))
    saved, mine = own_page.frontend.serialised(), json.loads((template(name)).read_text(encoding="utf-8"))
    assert comparable(saved) == comparable(mine)


def test_a_dialog_left_open_is_closed_before_the_next_workflow(own_page, strange):
    """It would lie over that workflow and take the click on Run."""
    own_page.frontend.open(strange)
    assert own_page.frontend.complaints()
    own_page.frontend.open(template("portrait"))
    assert own_page.frontend.complaints() == []


@pytest.mark.parametrize("name", [name for name in NAMES if PLANS[name].runs])
def test_run_makes_the_picture(own_page, name):
    page = own_page
    page.frontend.open(template(name))
    entry = page.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    save = next(key for key, node in committed(name).items() if node["class_type"] == "SaveImage")
    assert entry["outputs"][save]["images"]
    assert page.frontend.complaints() == []
