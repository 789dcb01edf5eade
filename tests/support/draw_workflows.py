#!/usr/bin/env python3
"""Makes workflows/*.json, workflows/api/*.json and the thumbnails of the plans in plans.py.

    python tests/support/draw_workflows.py --comfyui DIR --base DIR [NAME …] [--no-pictures]

A real frontend in a headless chromium loads each plan, lays it out and writes it, so what is committed is what the
frontend itself would save. Plans that run are run, for their thumbnail; of the others the graph is shown.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY), str(HERE)]

from chromium import Tab, find_browser  # noqa: E402
from frontend import Frontend, settle_in  # noqa: E402
from PIL import Image  # noqa: E402
from plans import PLANS, Plan  # noqa: E402

from facecdm.apps.references import EXAMPLES, copy_examples  # noqa: E402
from facecdm.comfy_api.client import Client  # noqa: E402
from facecdm.comfy_api.server import LocalServer, link_pack  # noqa: E402
from facecdm.comfy_api.workflow import Workflow  # noqa: E402

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

LAY_OUT = """
await app.loadApiJson(api, name);
await new Promise(done => setTimeout(done, 1200));
const graph = app.graph, GAP = 40, TITLE = 34, PAD = 20, HEAD = 80;
for (const node of graph.nodes) {
  for (const widget of node.widgets || []) if (widget.name == 'control_after_generate') widget.value = 'fixed';
  const least = node.computeSize(), asked = sizes[node.id] || sizes[node.type] || [270, 0];
  node.setSize([Math.max(least[0], asked[0]), Math.max(least[1], asked[1])]);
}
let left = 0, deepest = 0;
for (const stack of groups) {
  let top = 0, widest = 0;
  for (const [title, colour, columns] of stack) {
    let x = left + PAD, bottom = top;
    for (const column of columns) {
      let y = top + HEAD, wide = 0;
      for (const id of column) {
        const node = graph.getNodeById(id);
        node.pos = [x, y];
        y += node.size[1] + TITLE + GAP;
        wide = Math.max(wide, node.size[0]);
      }
      for (const id of column) graph.getNodeById(id).setSize([wide, graph.getNodeById(id).size[1]]);
      bottom = Math.max(bottom, y - TITLE - GAP + PAD);
      x += wide + GAP;
    }
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [left, top];
    group.size = [x - GAP + PAD - left, bottom - top];
    group.color = colour;
    graph.add(group);
    widest = Math.max(widest, group.size[0]);
    top = bottom + GAP;
  }
  left += widest + GAP;
  deepest = Math.max(deepest, top);
}
const text = LiteGraph.createNode('MarkdownNote');
text.title = 'Read me';
text.pos = [-430, 30];
text.setSize([390, 130 + 20 * Math.ceil(note.length / 46) + 14 * note.split('\\n').length]);
text.widgets[0].value = note;
text.color = '#432';
text.bgcolor = '#653';
graph.add(text);
graph.id = id;
app.canvas.ds.scale = 0.6;
app.canvas.ds.offset = [430 + 120, 160];
const result = [app.graph.serialize(), (await app.graphToPrompt()).output];
const scale = Math.min((innerWidth - 120) / (left + 430), (innerHeight - 180) / deepest, 1);
app.canvas.ds.scale = scale;  // all of it, for a picture
app.canvas.ds.offset = [430 + 80 / scale, 140 / scale];
app.canvas.setDirty(true, true);
await new Promise(done => setTimeout(done, 1200));
return result;
"""

# The whole graph without the page around it, letters at any zoom; gives where on the page it is.
SHOW_GRAPH = """
const style = document.createElement('style');
style.id = 'graph-alone';
style.textContent = 'body * { visibility: hidden } canvas#graph-canvas { visibility: visible }';
document.head.append(style);
app.canvas.min_font_size_for_lod = 0;
app.canvas.show_info = false;
const boxes = [...app.graph.nodes.filter(node => node.title != 'Read me'), ...app.graph.groups];
const left = Math.min(...boxes.map(box => box.pos[0])) - 20, top = Math.min(...boxes.map(box => box.pos[1])) - 50;
const right = Math.max(...boxes.map(box => box.pos[0] + box.size[0])) + 20;
const bottom = Math.max(...boxes.map(box => box.pos[1] + box.size[1])) + 20;
const page = app.canvas.canvas.getBoundingClientRect();
const scale = Math.min(page.width / (right - left), page.height / (bottom - top));
app.canvas.ds.scale = scale;
app.canvas.ds.offset = [-left, -top];
app.canvas.setDirty(true, true);
await new Promise(done => setTimeout(done, 2500));
return [page.x, page.y, (right - left) * scale, (bottom - top) * scale].map(Math.round);
"""


def draw(frontend: Frontend, plan: Plan) -> dict:
    """Writes both JSON files; gives the API JSON."""
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
        note=plan.note,
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"facecdm/{plan.name}")),
    )
    for node in opened["nodes"]:
        node.setdefault("widgets_values", [])  # as it will be once opened and saved again
    for data, path in ((opened, WORKFLOWS / f"{plan.name}.json"), (api, WORKFLOWS / "api" / f"{plan.name}.json")):
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return api


def show_graph(frontend: Frontend, plan: Plan) -> None:
    """The thumbnail of a workflow that does not run here: its graph."""
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
    """The thumbnail of a workflow that runs: what went in, and what came out."""
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
    parser.add_argument("--base", type=Path, required=True, help="a base directory with face models; left as it is")
    parser.add_argument("--no-pictures", action="store_true", help="leave the thumbnails as they are")
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
                frontend = Frontend(tab, server.address)
                for name in options.names or PLANS:
                    plan = PLANS[name]
                    api = draw(frontend, plan)
                    if not options.no_pictures:
                        if plan.runs:
                            asyncio.run(show_result(server.address, plan, api))
                        else:
                            show_graph(frontend, plan)
                    tab.picture(Path(tempfile.gettempdir()) / f"drawn-{name}.png")
                    print(name, "drawn", frontend.complaints() or "", flush=True)
            finally:
                tab.close()


if __name__ == "__main__":
    main()
