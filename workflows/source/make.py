"""Write workflows/TITLE.json, workflows/api/NAME.json and the thumbnails; without names also subgraphs/*.json.

    python -m workflows.source.make --comfyui DIR --base DIR [NAME …] [--no-pictures]

ComfyUI's own frontend, in a headless chromium, loads, lays out and saves each workflow, so the files are what the
frontend itself would save. A demo workflow is run for its thumbnail; the others' thumbnails say what they are for.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
import uuid
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from facecdm.apps.references import EXAMPLES, copy_examples
from facecdm.comfy_api.client import Client
from facecdm.comfy_api.server import LocalServer, link_pack
from facecdm.comfy_api.workflow import Workflow

from . import PLANS, Plan, blueprints
from .parts import downloads

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.append(str(REPOSITORY / "tests" / "support"))
from chromium import Tab, find_browser  # noqa: E402
from frontend import Frontend, settle_in  # noqa: E402

WORKFLOWS = REPOSITORY / "workflows"
SIDE = 400  # of a thumbnail
# Least sizes of nodes, [w, h]. Nodes that show pictures have them at their smallest: a node grows when a picture comes.
WIDTH = 235
HEIGHTS = {
    "LoadImage": 326,
    "SaveImage": 300,
    "CLIPTextEncode": 110,
    "FaceCDMDetectFaces": 614,
    "FaceCDMCompareFaces": 320,
    "FaceCDMPersonRegions": 540,
    "FaceCDMDetailFaces": 740,
    "FaceCDMExtractPose": 538,
    "FaceCDMEditPose": 706,
}
# Loads the graph, sets sizes and positions, adds groups and note; returns both JSON forms.
LAY_OUT = (HERE / "lay_out.js").read_text(encoding="utf-8")


def write(frontend: Frontend, plan: Plan) -> dict:
    """Write both JSON files. Returns the API JSON."""
    ids = {name: number for number, name in enumerate(plan.nodes, 1)}
    groups = [
        [(group.title, group.colour, [[ids[name] for name in column] for column in group.columns]) for group in stack]
        for stack in plan.groups
    ]
    placed = [name for stack in plan.groups for group in stack for column in group.columns for name in column]
    assert sorted(placed) == sorted(plan.nodes), f"{plan.name}: {set(placed) ^ set(plan.nodes)}"
    frontend.forget_pictures()
    opened, api = frontend.tab.js(
        LAY_OUT,
        api=plan.api(),
        name=plan.title,
        groups=groups,
        width=WIDTH,
        heights=HEIGHTS,
        note=plan.full_note,
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"facecdm/{plan.name}")),
    )
    for node in opened["nodes"]:
        node.setdefault("widgets_values", [])  # as after opening and saving
        node["properties"] |= downloads(node["widgets_values"])
    for data, path in ((opened, WORKFLOWS / f"{plan.title}.json"), (api, WORKFLOWS / "api" / f"{plan.name}.json")):
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return api


def show_title(plan: Plan) -> None:
    """The thumbnail of a workflow that cannot run here: the photo, and what it is for."""
    sheet = photo("faceworld.webp", SIDE)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, SIDE - 96, SIDE, SIDE), "#222")
    first, _, rest = plan.title.partition(" - ")[2].partition(" with ")
    for text, size, y in ((first, 40, SIDE - 92), (f"with {rest}", 26, SIDE - 42)):
        font = ImageFont.load_default(size)
        font = font.font_variant(size=size * min(1, (SIDE - 24) / font.getlength(text)))
        draw.text((12, y), text, "white", font)
    sheet.save(WORKFLOWS / f"{plan.title}.jpg", quality=82)


async def show_result(address: str, plan: Plan, api: dict) -> None:
    """The thumbnail of a workflow that runs: inputs and result."""
    async with Client(address, patience=120) as client:
        finished = await client.run(Workflow.parse(api, plan.name))
        save = next(key for key, node in api.items() if node["class_type"] == "SaveImage")
        result = Image.open(io.BytesIO(await client.fetch(finished.images(save)[0]))).convert("RGB")
    given = [node.inputs["image"] for node in plan.nodes.values() if node.kind == "LoadImage"]
    sheet = Image.new("RGB", (SIDE, SIDE), "#222")
    small = SIDE // 3
    scale = min(SIDE / result.width, (SIDE - small) / result.height)
    scale = min(scale, max(int(scale), 1))  # no enlargement by a fraction, which blurs
    shown = result.resize((round(result.width * scale), round(result.height * scale)), Image.Resampling.LANCZOS)
    sheet.paste(shown, ((SIDE - shown.width) // 2, (SIDE - small - shown.height) // 2))
    for number, name in enumerate(given):
        sheet.paste(photo(name, small), (number * small, SIDE - small))
    sheet.save(WORKFLOWS / f"{plan.title}.jpg", quality=82)


def photo(name: str, side: int) -> Image.Image:
    return Image.open(EXAMPLES / name).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


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
                if not options.names:
                    blueprints.main(server.address)
            finally:
                tab.close()


def make(frontend: Frontend, address: str, names: list[str], pictures: bool) -> None:
    for plan in (PLANS[name] for name in names):
        api = write(frontend, plan)
        if pictures and plan.runs:
            asyncio.run(show_result(address, plan, api))
        elif pictures:
            show_title(plan)
        print(plan.name, "written", frontend.complaints() or "", flush=True)


if __name__ == "__main__":
    main()
