"""The gallery: shipped workflows with some values changed, drawn by a real ComfyUI; a sheet and their settings."""

import argparse
import asyncio
import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..comfy_api.client import Client
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError
from ..files import write_named
from .portrait import REPOSITORY, WORKFLOW, Job, existing_file, finish, measure, running
from .portrait import add_place_arguments as add_place_arguments
from .progress import ProgressLine
from .references import EXAMPLES, Reference, reference
from .sheet import SheetRow, contact_sheet

CELL, TEXT_LINES = 320, 7  # of the sheet; the longest settings are whole in it

Changes = dict[tuple[str, str], Any]  # (node's title, input) → value


@dataclass(frozen=True)
class GalleryItem:
    """A picture: which shipped workflow, with which values changed."""

    workflow: str
    changes: Changes = field(default_factory=dict)


PROMPT, PHOTO = ("Prompt", "text"), ("Reference", "image")
OLD = {PROMPT: "a old man, short grey hair, neutral, white shirt, gradient green background"}
LAUGHING = {PROMPT: "a young man, short black hair, laughing, red striped shirt, blurred yellow background"}
OTHER = {PHOTO: "faceworld-2.webp"}
# A row of the sheet each; the first photo of its first workflow stands before it.
GALLERY: tuple[tuple[GalleryItem, ...], ...] = (
    (GalleryItem("portrait"), GalleryItem("portrait", OLD), GalleryItem("portrait", LAUGHING)),
    (GalleryItem("portrait", OTHER), GalleryItem("portrait", OTHER | OLD), GalleryItem("portrait", OTHER | LAUGHING)),
    (GalleryItem("portrait_pose"), GalleryItem("portrait_pose", {("Edit Pose", "mirror"): True}),
     GalleryItem("portrait_pose", {("Edit Pose", "turn_yaw"): 30.0})),
    (GalleryItem("two_people"), GalleryItem("face_library"), GalleryItem("detail_faces")),
    (GalleryItem("img2img"), GalleryItem("img2img", {("KSampler", "denoise"): 0.4}), GalleryItem("inpaint")),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--adapter", type=existing_file, metavar="FILE", help="an adapter in place of the workflows' own")  # fmt: skip
    add("--steps", type=int, metavar="N", help="sampler steps (default: each workflow's)")
    add("--output", type=Path, default=Path("output") / "gallery", metavar="DIR", help="the pictures, each with its "
        "workflow in it (default: output/gallery)")  # fmt: skip
    add("--docs", type=Path, default=REPOSITORY / "docs", metavar="DIR", help="gallery.jpg and gallery.md (default: "
        "the pack's docs)")  # fmt: skip
    add("--port", type=int, metavar="N", help="the server's port (default: a free one)")


# ---- what is queued ----


def with_adapter(workflow: Workflow, name: str) -> Workflow:
    """The same with Load Adapter of a file in models/facecdm."""
    nodes = copy.deepcopy(workflow.nodes)
    for node in nodes.values():
        if workflow.is_link(node["inputs"].get("adapter")):
            node["inputs"]["adapter"] = ["lent", 0]
    nodes["lent"] = {"class_type": "FaceCDMLoadAdapter", "inputs": {"name": name, "family": "auto"},
                     "_meta": {"title": "Load Adapter"}}  # fmt: skip
    return Workflow(nodes, workflow.name)


def queued(shown: GalleryItem, steps: int | None, adapter: str | None) -> Workflow:
    """Raises WorkflowMistake where a change names what the workflow has not."""
    workflow = Workflow.load(WORKFLOW.parent / f"{shown.workflow}.json")
    for (node, name), value in shown.changes.items():
        workflow = workflow.set(node, name, value)
    if steps is not None:
        workflow = workflow.set("KSampler", "steps", steps)
    return workflow if adapter is None else with_adapter(workflow, adapter)


def photos(workflow: Workflow) -> list[str]:
    """Ids of Load Image nodes; the first holds the person."""
    return [node_id for node_id, node in workflow.nodes.items() if node["class_type"] == "LoadImage"]


def settings(shown: GalleryItem, workflow: Workflow) -> str:
    """A line: workflow, what was changed in it, photos, sampler; words last, since a caption may be cut there."""
    sampler = workflow.nodes[workflow.find("KSampler")]["inputs"]
    told = [f"{node} {name} {value}" for (node, name), value in shown.changes.items()
            if node not in ("Prompt", "Reference", "KSampler")]  # fmt: skip
    parts = [f"{shown.workflow}: seed {sampler['seed']}, {sampler['steps']} steps, CFG {sampler['cfg']:g}, "
             f"{sampler['sampler_name']} {sampler['scheduler']}"]  # fmt: skip
    parts += [f"denoise {sampler['denoise']:g}"] if sampler["denoise"] < 1 else []
    parts += [*told, " and ".join(workflow.nodes[photo]["inputs"]["image"] for photo in photos(workflow))]
    words = [node["inputs"]["text"] for node in workflow.nodes.values() if node["class_type"] == "CLIPTextEncode"]
    return " · ".join([*parts, *filter(None, words)])


# ---- how it is drawn ----


async def draw(address: str, likeness, options: argparse.Namespace, adapter: str | None) -> list[SheetRow]:
    """Every entry, one after the other, as rows of a sheet."""
    line, rows, number = ProgressLine(sum(map(len, GALLERY))), [], 0
    async with Client(address, patience=5) as client:
        sent = {file.name: await client.upload(file.read_bytes(), file.name) for file in sorted(EXAMPLES.iterdir())}
        for row in GALLERY:
            person, results = None, []
            for shown in row:
                workflow = queued(shown, options.steps, adapter)
                photo = example(workflow.nodes[photos(workflow)[0]]["inputs"]["image"])
                person, number, told = person or photo, number + 1, settings(shown, workflow)
                for node_id in photos(workflow):
                    workflow = workflow.set(node_id, "image", sent[workflow.get(node_id, "image")])
                line.begin(f"{number} {shown.workflow}")
                job = Job(photo, number, told, workflow)
                measured = likeness if workflow.has("FaceCDMApply") else None  # of several people none is the one
                results.append(await finish(client, job, await client.submit(workflow), line, measured, options.output))
                line.end(results[-1].problem or results[-1].verdict)
            rows.append(SheetRow(person.name, person.picture, tuple(results)))
    return rows


def example(name: str) -> Reference:
    return reference(name, (EXAMPLES / name).read_bytes())


@contextlib.contextmanager
def lent(file: Path | None, base: Path | None) -> Iterator[str | None]:
    """The adapter's name in models/facecdm of `base` while the block runs; None without a file."""
    if file is None:
        yield None
        return
    if base is None:
        raise FaceCDMError(f"{file.name} must lie in the server's models/facecdm: name its base directory with --base")
    path = write_named(file.read_bytes(), base / "models" / "facecdm", "gallery")
    try:
        yield path.name
    finally:
        path.unlink()


def markdown(rows: list[SheetRow]) -> str:
    """The page: the sheet, and a line of settings for every picture, in the order of the sheet."""
    results = [result for row in rows for result in row.results]
    lines = [f"{number}. {made.prompt} · {made.problem or made.verdict}" for number, made in enumerate(results, 1)]
    return "\n".join(["# Gallery", "", "![What the shipped workflows draw](gallery.jpg)", "",
                      "From left to right, row by row; each is the workflow of that name with these settings:", "",
                      *lines, "", "`python -m facecdm gallery --comfyui DIR` draws it anew.", ""])  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Exit code 1 where a picture could not be made; the sheet says why."""
    options.reference, base = None, options.base or options.comfyui
    options.output.mkdir(parents=True, exist_ok=True)
    options.docs.mkdir(parents=True, exist_ok=True)
    with lent(options.adapter, base) as adapter, running(options) as (address, _):
        likeness = measure(options, [example(name) for name in sorted(path.name for path in EXAMPLES.iterdir())])
        rows = asyncio.run(draw(address, likeness, options, adapter))
    told = "The shipped workflows on the demo model · identity: cosine of face embeddings"
    sheet = contact_sheet("FaceCDM", told, rows, CELL, TEXT_LINES)
    sheet.save(options.docs / "gallery.jpg", quality=85, optimize=True)
    (options.docs / "gallery.md").write_text(markdown(rows), encoding="utf-8")
    print(f"\nPictures: {options.output.absolute()}\nGallery:  {options.docs / 'gallery.jpg'}, gallery.md")
    return 0 if all(result.picture is not None for row in rows for result in row.results) else 1
