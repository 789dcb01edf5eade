"""The one table of model files: names, folders and links that agree with each other."""

import json
from pathlib import Path

import pytest

from facecdm.models.catalogue import ALL, FILES, IR_SE50, PACKS, by_choice, by_name
from facecdm.models.needs import WORKFLOWS, of_workflow
from workflows.source import PLANS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("file", ALL, ids=lambda file: f"{file.folder}/{file.name}")
def test_every_entry_is_complete(file):
    assert file.url.startswith(("https://huggingface.co/", "https://github.com/")) and " " not in file.url
    assert bool(file.repository) != bool(file.link), "on the hub, or elsewhere"
    assert file.megabytes > 0 and file.licence and file.purpose
    assert all(by_name(name) for name in file.requires), "what it requires stands in the table"


def test_names_and_choices_are_unique():
    assert len({(file.folder, file.name) for file in ALL}) == len(ALL)
    assert len({file.choice for file in FILES}) == len(FILES)
    assert all(by_choice(file.choice) is file for file in FILES)


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_every_model_of_a_shipped_workflow_is_in_the_table(path):
    needs = of_workflow(path)
    assert not needs.unknown
    named = json.dumps(json.loads(path.read_text(encoding="utf-8")))
    beside = IR_SE50.requires if IR_SE50 in needs.files else ()
    assert all(Path(file.name).parts[0] in named or file.name in beside for file in needs.files)
    assert needs.files


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("[sf][dl]*_*.json")), ids=lambda path: path.stem)
def test_workflows_link_what_they_need(path):
    """The note links every file; nodes offer those that ComfyUI's frontend can download, under the widget's value."""
    opened = json.loads((ROOT / "workflows" / f"{PLANS[path.stem].title}.json").read_text(encoding="utf-8"))
    (note,) = (node["widgets_values"][0] for node in opened["nodes"] if node["type"] == "MarkdownNote")
    files = of_workflow(path).files
    assert [file for file in files if file.note not in note] == [] and f"facecdm get {path.stem}" in note
    offered = [model for node in opened["nodes"] for model in node["properties"].get("models", ())]
    wanted = [{"name": f.choice, "url": f.url, "directory": f.folder} for f in files if f.in_browser]
    assert sorted(offered, key=str) == sorted(wanted, key=str)


def test_face_packs_are_those_that_the_families_were_trained_with():
    from facecdm.formats.families import FAMILIES

    recognisers = {family.recogniser for family in FAMILIES.values()}
    assert {name.partition("/")[0] for name in recognisers} - set(PACKS) == {"arcface_ir_se50"}
    assert IR_SE50.name in recognisers, "a pack of one file"


def test_the_families_towers_have_the_names_of_the_table():
    from facecdm.formats.encoders import CLIP_L, ENCODERS, EVA, SIGLIP, SIGLIP_SO400M

    assert all(by_name(tower.file) for tower in (*ENCODERS, CLIP_L, EVA, SIGLIP, SIGLIP_SO400M))


def test_the_families_files_and_towers_are_in_the_table():
    from facecdm.formats.encoders import CLIP_L, ENCODERS, EVA, SIGLIP, SIGLIP_SO400M
    from facecdm.formats.families import FAMILIES

    for family in FAMILIES.values():
        for name in family.files.values():
            file = by_choice(name) or by_name(name)
            assert file is not None, f"{family.key}: {name}"
            if family.stream == "face":
                assert set(family.recogniser.split("/")) & set(file.requires)
            if family.recipe.picture:
                towers = {tower.file for tower in (*ENCODERS, CLIP_L, EVA, SIGLIP, SIGLIP_SO400M)}
                assert towers & set(file.requires), f"{name} has no vision tower"
