"""Write workflows/*.json, workflows/api/*.json and the thumbnails.

    python -m workflows.source.make --comfyui DIR --base DIR [NAME …] [--no-pictures]

ComfyUI's own frontend, in a headless chromium, loads, lays out and saves each workflow, so the files are what the
frontend itself would save. A demo workflow is run for its thumbnail; the others' thumbnails show the graph.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
import uuid
from pathlib import Path

from PIL import Image

from facecdm.apps.references import EXAMPLES, copy_examples
from facecdm.comfy_api.client import Client
from facecdm.comfy_api.server import LocalServer, link_pack
from facecdm.comfy_api.workflow import Workflow

from . import PLANS, Plan

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.append(str(REPOSITORY / "tests" / "support"))
from chromium import Tab, find_browser  # noqa: E402
from frontend import Frontend, settle_in  # noqa: E402

WORKFLOWS = REPOSITORY / "workflows"
# Least height of nodes that show a picture or much text, [w, h].
SIZES = {
    "LoadImage": (300, 330),
    "SaveImage": (330, 400),
    "PreviewImage": (330, 330),
    "CLIPTextEncode": (400, 130),
    "FaceCDMDetectFaces": (300, 610),
    "FaceCDMCompareFaces": (330, 380),
    "FaceCDMPersonRegions": (320, 560),
    "FaceCDMDetailFaces": (330, 780),
    "KSampler": (310, 480),
    "FaceCDMExtractPose": (300, 560),
    "FaceCDMEditPose": (300, 560),
}
# Loads the graph, sets sizes and positions, adds groups and note; returns both JSON forms.
LAY_OUT = (HERE / "lay_out.js").read_text(encoding="utf-8")
# Shows the graph without the page around it, its text at any zoom; returns its rectangle in the page.
SHOW_GRAPH = (HERE / "show_graph.js").read_text(encoding="utf-8")


def write(frontend: Frontend, plan: Plan) -> dict:
    """Write both JSON files. Returns the API JSON."""
    ids = {name: number for number, name in enumerate(plan.nodes, 1)}
    groups = [
        [(group.title, group.colour, [[ids[name] for name in column] for column in group.columns]) for group in stack]
        for stack in plan.groups
    ]
    placed = [name for stack in plan.groups for group in stack for column in group.columns for name in column]
    assert sorted(placed) == sorted(plan.nodes), f"{plan.name}: {set(placed) ^ set(plan.nodes)}"
    sizes = SIZES | {str(ids[name]): size for name, size in plan.sizes.items()}
    frontend.forget_pictures()
    opened, api = frontend.tab.js(
        LAY_OUT,
        api=plan.api(),
        name=plan.name,
        groups=groups,
        sizes=sizes,
        note=plan.full_note,
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"facecdm/{plan.name}")),
    )
    for node in opened["nodes"]:
        node.setdefault("widgets_values", [])  # as after opening and saving
        offer_downloads(node, plan)
    for data, path in ((opened, WORKFLOWS / f"{plan.name}.json"), (api, WORKFLOWS / "api" / f"{plan.name}.json")):
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return api


def offer_downloads(node: dict, plan: Plan) -> None:
    """Name the node's model files in its properties: the frontend then offers to download those that are missing."""
    offered = [
        {"name": file.choice, "url": file.url, "directory": file.folder}
        for file in plan.models
        if file.in_browser and file.choice in node["widgets_values"]
    ]
    if offered:
        node["properties"]["models"] = offered


def show_graph(frontend: Frontend, plan: Plan) -> None:
    """The thumbnail of a workflow that cannot run here: its graph."""
    left, top, width, height = frontend.tab.js(SHOW_GRAPH)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        frontend.tab.picture(file)
        page = Image.open(file).convert("RGB")
    frontend.tab.js("document.getElementById('graph-alone').remove()")
    graph = page.crop((left, top, left + width, top + height))
    graph.thumbnail((768, 384), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (768, 384), page.getpixel((left + 2, top + 2)))
    sheet.paste(graph, ((768 - graph.width) // 2, (384 - graph.height) // 2))
    sheet.save(WORKFLOWS / f"{plan.name}.jpg", quality=80)


async def show_result(address: str, plan: Plan, api: dict) -> None:
    """The thumbnail of a workflow that runs: inputs and result."""
    async with Client(address, patience=120) as client:
        finished = await client.run(Workflow.parse(api, plan.name))
        save = next(key for key, node in api.items() if node["class_type"] == "SaveImage")
        result = Image.open(io.BytesIO(await client.fetch(finished.images(save)[0]))).convert("RGB")
    given = [
        Image.open(EXAMPLES / node.inputs["image"]).convert("RGB")
        for node in plan.nodes.values()
        if node.kind == "LoadImage"
    ]
    sheet = Image.new("RGB", (768, 384), "white")
    side = 384 // max(len(given), 1)
    room = 768 - side
    for number, picture in enumerate(given):
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (0, number * side))
    scale = min(room / result.width, 384 / result.height)
    shown = result.resize((round(result.width * scale), round(result.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(shown, (side + (room - shown.width) // 2, (384 - shown.height) // 2))
    sheet.save(WORKFLOWS / f"{plan.name}.jpg", quality=82)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(PLANS))
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="a base directory with face models; not changed")
    parser.add_argument("--no-pictures", action="store_true", help="keep the thumbnails")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").mkdir()
        (base / "models" / "insightface").symlink_to((options.base / "models" / "insightface").absolute())
        copy_examples(base / "input")
        link_pack(REPOSITORY, base)
        settle_in(base)
        with LocalServer(options.comfyui.absolute(), base) as server:
            tab = Tab(find_browser() or sys.exit("no browser"), 1700, 950)
            try:
                make(
                    Frontend(tab, server.address), server.address, options.names or list(PLANS), not options.no_pictures
                )
            finally:
                tab.close()


def make(frontend: Frontend, address: str, names: list[str], pictures: bool) -> None:
    for plan in (PLANS[name] for name in names):
        api = write(frontend, plan)
        if pictures and plan.runs:
            asyncio.run(show_result(address, plan, api))
        elif pictures:
            show_graph(frontend, plan)
        print(plan.name, "written", frontend.complaints() or "", flush=True)


if __name__ == "__main__":
    main()
