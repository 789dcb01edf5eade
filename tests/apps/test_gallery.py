"""The gallery on a real server: every image is made with the settings that the page gives it."""

import asyncio
import json
import shutil
from argparse import Namespace

import pytest
from aiohttp import web
from PIL import Image, ImageDraw
from standin import StandIn

from facecdm.apps import gallery
from facecdm.apps.gallery import GALLERY, GalleryItem, adapter_copy, edited, settings
from facecdm.apps.references import EXAMPLES
from facecdm.cli import main
from facecdm.comfy_api.errors import WorkflowMistake
from facecdm.demo.weights import default_path
from facecdm.drawing import font, wrap
from facecdm.errors import FaceCDMError

ENTRIES = [item for row in GALLERY for item in row]


@pytest.fixture
def run(server, tmp_path):
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")

    def run(*arguments: str) -> int:
        where = [
            "--server",
            server.address,
            "--base",
            str(server.base),
            "--output",
            str(tmp_path),
            "--docs",
            str(tmp_path),
            "--steps",
            "1",
        ]
        return main(["gallery", *where, *map(str, arguments)])

    return run


def recipes(folder) -> dict[int, dict]:
    """Number of an image → the workflow in it."""
    return {int(path.stem.split("-")[-1]): json.loads(Image.open(path).info["prompt"]) for path in folder.glob("*.png")}


def value(recipe: dict, title: str, name: str):
    (node,) = (node for node in recipe.values() if node["_meta"]["title"] == title and name in node["inputs"])
    return node["inputs"][name]


@pytest.mark.slow
def test_every_picture_has_the_settings_of_the_page(run, tmp_path):
    assert run() == 0
    made = recipes(tmp_path)
    assert sorted(made) == list(range(1, len(ENTRIES) + 1))
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    for number, item in enumerate(ENTRIES, 1):
        (line,) = (line for line in page.splitlines() if line.startswith(f"{number}. "))
        assert line.startswith(f"{number}. {item.workflow}: seed {value(made[number], 'KSampler', 'seed')}, 1 steps")
        for (title, name), wanted in item.changes.items():
            assert value(made[number], title, name) == wanted and str(wanted) in line
        assert ("not measured" in line) == (item.workflow == "two_people")
    sheet = Image.open(tmp_path / "gallery.jpg")
    assert sheet.format == "JPEG" and sheet.width > 4 * gallery.CELL and sheet.height > len(GALLERY) * gallery.CELL


@pytest.mark.slow
def test_a_trained_adapter_replaces_the_workflows_own(run, server, tmp_path, monkeypatch):
    server.run({
        "1": {"class_type": "FaceCDMLoadDemoModel", "inputs": {}},
        "2": {"class_type": "FaceCDMNewAdapter", "inputs": {"model": ["1", 0], "face_tokens": 4, "image_tokens": 8,
                                                            "face_rank": 16, "interplay": True, "seed": 0,
                                                            "clip_vision": ["1", 3]}},
        "3": {"class_type": "FaceCDMSaveAdapter", "inputs": {"adapter": ["2", 0], "name": "mine", "overwrite": True}},
    })  # fmt: skip
    folder = server.base / "models" / "facecdm"
    shutil.move(folder / "mine.safetensors", tmp_path / "mine.safetensors")
    monkeypatch.setattr(gallery, "GALLERY", ((GalleryItem("portrait"), GalleryItem("two_people")),))
    assert run("--adapter", tmp_path / "mine.safetensors") == 0
    assert len(recipes(tmp_path)) == 2
    for recipe in recipes(tmp_path).values():
        (loader,) = {node["inputs"]["adapter"][0] for node in recipe.values() if "adapter" in node["inputs"]}
        assert recipe[loader]["class_type"] == "FaceCDMLoadAdapter"
    assert not list(folder.glob("gallery*")), "the copy is left"


def test_a_failed_picture_has_its_reason_on_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        gallery,
        "GALLERY",
        ((GalleryItem("portrait", {("Apply FaceCDM", "start_at"): 1.0, ("Apply FaceCDM", "end_at"): 0.0}),),),
    )
    assert run() == 1
    assert "must be before end_at" in (tmp_path / "gallery.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("item", ENTRIES, ids=lambda item: item.workflow)
def test_items_name_existing_inputs_and_photos(item):
    workflow = edited(item, None, None)
    assert all(workflow.get(*key) == wanted for key, wanted in item.changes.items())
    assert all((EXAMPLES / workflow.get(node, "image")).is_file() for node in gallery.photos(workflow))
    message = settings(item, workflow)
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    assert not any("…" in line for line in wrap(draw, message, font(14), gallery.CELL, gallery.TEXT_LINES)), "cut"
    assert message.startswith(f"{item.workflow}: seed 1, 20 steps, CFG 4, euler ")


def test_mistakes_of_items_and_options(tmp_path):
    with pytest.raises(WorkflowMistake, match="has no node 'Promt'"):
        edited(GalleryItem("portrait", {("Promt", "text"): "a man"}), None, None)
    with pytest.raises(FaceCDMError, match="--base"), adapter_copy(tmp_path / "mine.safetensors", None):
        pass


def test_a_refused_workflow_has_its_reason_in_its_cell(tmp_path, monkeypatch):
    async def refuse(request):
        return web.json_response({"error": {"message": "no such node", "details": ""}}, status=400)

    async def main():
        server = StandIn()
        server._prompt = refuse
        await server.up()
        try:
            return await gallery.make_rows(server.address, None, Namespace(steps=1, output=tmp_path), None)
        finally:
            await server.down()

    monkeypatch.setattr(gallery, "GALLERY", ((GalleryItem("portrait"), GalleryItem("img2img")),))
    (row,) = asyncio.run(main())
    assert ["no such node" in made.problem for made in row.results] == [True, True]
