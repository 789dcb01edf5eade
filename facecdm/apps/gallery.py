"""The gallery: run variants of the shipped workflows in ComfyUI; write a sheet and a page of settings."""

import argparse
import asyncio
import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..comfy_api.client import Client
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError
from ..files import REPOSITORY, write_file, write_named, writing
from .jobs import Job, finish, submit
from .portrait import WORKFLOW
from .progress import ProgressLine
from .references import EXAMPLES, Reference, reference
from .serving import add_server_arguments as add_server_arguments
from .serving import existing_file, open_meter, require_comfyui, require_pack, running_server
from .sheet import SheetRow, contact_sheet
from .similarity import SimilarityMeter

CELL, TEXT_LINES = 256, 9  # of the sheet: the demo's pictures at their own size, and room for the longest settings

Changes = dict[tuple[str, str], Any]  # (node's title, input) → value


@dataclass(frozen=True)
class GalleryItem:
    """
    workflow  name of a shipped workflow
    changes   values to replace
    """

    workflow: str
    changes: Changes = field(default_factory=dict)


PROMPT, PHOTO = ("Prompt", "text"), ("Reference", "image")
OLD = {PROMPT: "a old man, short grey hair, neutral, white shirt, gradient green background"}
LAUGHING = {PROMPT: "a young man, short black hair, laughing, red striped shirt, blurred yellow background"}
OTHER = {PHOTO: "faceworld-2.webp"}
# Rows of the sheet. A row's reference is the first photo of its first workflow.
GALLERY: tuple[tuple[GalleryItem, ...], ...] = (
    (GalleryItem("portrait"), GalleryItem("portrait", OLD), GalleryItem("portrait", LAUGHING)),
    (GalleryItem("portrait", OTHER), GalleryItem("portrait", OTHER | OLD), GalleryItem("portrait", OTHER | LAUGHING)),
    (GalleryItem("portrait_pose"), GalleryItem("portrait_pose", {("Edit Pose", "mirror"): True}),
     GalleryItem("portrait_pose", {("Edit Pose", "turn_yaw"): 30.0})),
    (GalleryItem("two_people"), GalleryItem("face_library")),
    (GalleryItem("img2img"), GalleryItem("img2img", {("KSampler", "denoise"): 0.4})),
    (GalleryItem("detail_faces"), GalleryItem("inpaint")),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--adapter", type=existing_file, metavar="FILE", help="an adapter in place of the workflows' own")
    add("--steps", type=int, metavar="N", help="sampler steps (default: each workflow's)")
    add("--output", type=Path, default=Path("output") / "gallery", metavar="DIR", help="the pictures, each with its "
        "workflow in it (default: output/gallery)")  # fmt: skip
    add("--docs", type=Path, default=REPOSITORY / "docs", metavar="DIR", help="gallery.jpg and gallery.md (default: "
        "the pack's docs)")  # fmt: skip
    add("--port", type=int, metavar="N", help="the server's port (default: a free one)")


# ---- workflows ----


def with_adapter(workflow: Workflow, name: str) -> Workflow:
    """A copy that loads an adapter from models/facecdm."""
    nodes = copy.deepcopy(workflow.nodes)
    for node in nodes.values():
        if workflow.is_link(node["inputs"].get("adapter")):
            node["inputs"]["adapter"] = ["adapter_file", 0]
    nodes["adapter_file"] = {"class_type": "FaceCDMLoadAdapter", "inputs": {"name": name, "family": "auto"},
                     "_meta": {"title": "Load FaceCDM Adapter"}}  # fmt: skip
    return Workflow(nodes, workflow.name)


def edited(item: GalleryItem, steps: int | None, adapter: str | None) -> Workflow:
    """The item's workflow with its changes. Raises WorkflowMistake if a changed input does not exist."""
    workflow = Workflow.load(WORKFLOW.parent / f"{item.workflow}.json")
    for (node, name), value in item.changes.items():
        workflow = workflow.set(node, name, value)
    if steps is not None:
        workflow = workflow.set("KSampler", "steps", steps)
    return workflow if adapter is None else with_adapter(workflow, adapter)


def photos(workflow: Workflow) -> list[str]:
    """Ids of the Load Image nodes. The first one loads the reference."""
    return [node_id for node_id, node in workflow.nodes.items() if node["class_type"] == "LoadImage"]


def settings(item: GalleryItem, workflow: Workflow) -> str:
    """One line: workflow, sampler, changes, photos, then prompts. A caption may be cut at its end."""
    sampler = workflow.nodes[workflow.find("KSampler")]["inputs"]
    changes = [f"{node} {name} {value}" for (node, name), value in item.changes.items()
               if node not in ("Prompt", "Reference", "KSampler")]  # fmt: skip
    parts = [f"{item.workflow}: seed {sampler['seed']}, {sampler['steps']} steps, CFG {sampler['cfg']:g}, "
             f"{sampler['sampler_name']} {sampler['scheduler']}"]  # fmt: skip
    parts += [f"denoise {sampler['denoise']:g}"] if sampler["denoise"] < 1 else []
    parts += [*changes, " and ".join(workflow.nodes[photo]["inputs"]["image"] for photo in photos(workflow))]
    prompts = [node["inputs"]["text"] for node in workflow.nodes.values() if node["class_type"] == "CLIPTextEncode"]
    return " · ".join([*parts, *filter(None, prompts)])


# ---- images ----


async def make_rows(
    address: str, meter: SimilarityMeter | None, options: argparse.Namespace, adapter: str | None
) -> list[SheetRow]:
    """Run every item, one after the other."""
    line, rows, number = ProgressLine(sum(map(len, GALLERY))), [], 0
    async with Client(address, patience=5) as client:
        sent = {file.name: await client.upload(file.read_bytes(), file.name) for file in sorted(EXAMPLES.iterdir())}
        for row in GALLERY:
            person, results = None, []
            for item in row:
                workflow = edited(item, options.steps, adapter)
                photo = example(workflow.nodes[photos(workflow)[0]]["inputs"]["image"])
                person, number, caption = person or photo, number + 1, settings(item, workflow)
                for node_id in photos(workflow):
                    workflow = workflow.set(node_id, "image", sent[workflow.get(node_id, "image")])
                line.begin(f"{number} {item.workflow}")
                job = Job(photo, number, caption, workflow)
                one_person = meter if workflow.has("FaceCDMApply") else None  # the others show several people
                results.append(await finish(client, job, await submit(client, job), line, one_person, options.output))
                line.end(results[-1].problem or results[-1].verdict)
            rows.append(SheetRow(person.name, person.picture, tuple(results)))
    return rows


def example(name: str) -> Reference:
    return reference(name, (EXAMPLES / name).read_bytes())


@contextlib.contextmanager
def adapter_copy(file: Path | None, base: Path | None) -> Iterator[str | None]:
    """Copy an adapter into models/facecdm of `base` while the block runs. Yields its name, or None without a file."""
    if file is None:
        yield None
        return
    if base is None:
        raise FaceCDMError(f"{file.name} must lie in the server's models/facecdm: name its base directory with --base")
    path = write_named(file.read_bytes(), base / "models" / "facecdm", "gallery")
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def markdown(rows: list[SheetRow]) -> str:
    """The page in Markdown: the sheet, then one line of settings per image, in the sheet's order."""
    results = [result for row in rows for result in row.results]
    lines = [f"{number}. {made.prompt} · {made.problem or made.verdict}" for number, made in enumerate(results, 1)]
    return "\n".join(["# Gallery", "", "![Images of the shipped workflows](gallery.jpg)", "",
                      "The list has the images from left to right, row by row. "
                      "Each was made by the named workflow with these settings:", "",
                      *lines, "", "`python -m facecdm gallery --comfyui DIR` makes it again.", ""])  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Exit code: 1 if an image could not be made. The sheet shows the reason."""
    require_pack("call the gallery in a clone")
    require_comfyui(options)
    base = options.base or options.comfyui
    for folder in (options.output, options.docs):
        with writing(f"{folder} could not be made"):
            folder.mkdir(parents=True, exist_ok=True)
    with adapter_copy(options.adapter, base) as adapter, running_server(options) as (address, _):
        meter = open_meter(options, [example(name) for name in sorted(path.name for path in EXAMPLES.iterdir())])
        rows = asyncio.run(make_rows(address, meter, options, adapter))
    subtitle = "The shipped workflows on the demo model · identity: cosine of face embeddings"
    data = io.BytesIO()
    contact_sheet("FaceCDM", subtitle, rows, CELL, TEXT_LINES).save(data, "jpeg", quality=85, optimize=True)
    write_file(options.docs / "gallery.jpg", data.getvalue())
    write_file(options.docs / "gallery.md", markdown(rows).encode())
    print(f"\nPictures: {options.output.absolute()}\nGallery:  {options.docs / 'gallery.jpg'}, gallery.md")
    return 0 if all(result.picture is not None for row in rows for result in row.results) else 1
