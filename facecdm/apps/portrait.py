"""Portraits of every reference with every prompt from one workflow, and a contact sheet.

The workflow's nodes are found by title: "Reference" (LoadImage), "Prompt" (CLIPTextEncode); KSampler and SaveImage by
class. Any workflow in API format with these four works.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.errors import ServerDied, ServerUnreachable
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError
from ..files import REPOSITORY, write_file, writing
from .jobs import Job, make_all, picture_name
from .references import Reference, read_references
from .serving import add_server_arguments as add_server_arguments
from .serving import existing_file, open_meter, require_comfyui, require_pack, running_server
from .sheet import SheetRow, contact_sheet

if TYPE_CHECKING:
    from ..comfy_api.server import LocalServer

WORKFLOW = REPOSITORY / "workflows" / "api" / "portrait.json"
REPORT, SHEET = "report.json", "contact-sheet.png"
# Worded like FaceWorld's captions, the only ones that the demo model was trained on.
PROMPTS = (
    "a young woman, long blond hair, smiling, red striped shirt, plain blue background",
    "a middle-aged woman, short black hair, neutral, white shirt, gradient green background",
    "a young woman, red hair in a bun, laughing, purple shirt, blurred yellow background",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--reference",
        type=existing_file,
        action="append",
        metavar="PICTURE",
        help="a picture of a person who agreed; repeatable (default: two that come with the demo)",
    )
    add("--prompt", action="append", metavar="TEXT", help="what to show; repeatable (default: three)")
    add("--workflow", type=existing_file, metavar="JSON", help="another workflow in API format")
    add("--steps", type=int, metavar="N", help="sampler steps (default: the workflow's)")
    add("--seed", type=int, default=1, metavar="N", help="the same seed gives the same pictures (default: 1)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="output folder; files in it are not replaced (default: output/demo-DATE-TIME)",
    )
    add("--port", type=int, metavar="N", help="the server's port (default: a free one)")
    add("--serve", action="store_true", help="leave the server up afterwards, for a browser")


def plan(
    workflow: Workflow,
    references: list[Reference],
    prompts: list[str],
    uploaded: list[str],
    seed: int,
    steps: int | None,
) -> list[Job]:
    """Jobs for every reference and prompt. Raises WorkflowMistake if the workflow lacks a required node."""
    workflow = workflow.set("KSampler", "seed", seed)
    if steps is not None:
        workflow = workflow.set("KSampler", "steps", steps)
    jobs = []
    for reference, name in zip(references, uploaded, strict=True):
        for number, prompt in enumerate(prompts, 1):
            edited = workflow.set("Reference", "image", name).set("Prompt", "text", prompt)
            edited = edited.set("SaveImage", "filename_prefix", f"FaceCDM/{Path(reference.name).stem}")
            jobs.append(Job(reference, number, prompt, edited))
    return jobs


def main(options: argparse.Namespace) -> int:
    """Exit code: 1 if no image was made."""
    started = time.monotonic()
    if not options.workflow:
        require_pack("name a workflow with --workflow")
    require_comfyui(options)
    workflow = Workflow.load(options.workflow or WORKFLOW)
    references = read_references(options.reference)
    prompts = options.prompt or list(PROMPTS)
    output = (options.output or Path("output") / time.strftime("demo-%Y%m%d-%H%M%S")).absolute()
    check_free(output, references, len(prompts))
    with writing(f"{output} could not be made"):
        output.mkdir(parents=True, exist_ok=True)

    def jobs_of(uploaded: list[str]) -> list[Job]:
        return plan(workflow, references, prompts, uploaded, options.seed, options.steps)

    with running_server(options) as (address, local):
        print(f"ComfyUI answers at http://{address} ({time.monotonic() - started:.0f} s)", flush=True)
        meter = open_meter(options, references)
        try:
            rows = asyncio.run(make_all(address, jobs_of, references, meter, output))
        except ServerUnreachable as error:
            if local is not None and not local.alive:
                raise ServerDied(f"ComfyUI ended by itself; {local.log} ends:\n{local.tail()}") from error
            raise
        sheet = output / SHEET
        write_sheet(sheet, rows, caption(workflow, options))
        write_report(output / REPORT, rows, options)
        print(f"\nPictures:      {output}\nContact sheet: {sheet}\n({time.monotonic() - started:.0f} s)")
        if options.serve:
            serve(address, local)
    return 0 if any(result.picture is not None for row in rows for result in row.results) else 1


def check_free(output: Path, references: list[Reference], prompts: int) -> None:
    """Raise FaceCDMError if a picture, the sheet or the report would replace a file."""
    pictures = [picture_name(item, number) for item in references for number in range(1, prompts + 1)]
    taken = [name for name in (*pictures, SHEET, REPORT) if os.path.lexists(output / name)]
    if taken:
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        raise FaceCDMError(
            f"{output} already has {', '.join(taken[:3])}{more}, and no file is replaced: choose another folder with "
            "--output, or move the files"
        )


def caption(workflow: Workflow, options: argparse.Namespace) -> str:
    steps = options.steps or workflow.get("KSampler", "steps")
    return (
        f"{workflow.name} · seed {options.seed} · {steps} steps · {time.strftime('%Y-%m-%d %H:%M')} · "
        "identity: cosine of face embeddings, 1 is the same picture"
    )


def write_sheet(path: Path, rows: list[SheetRow], subtitle: str) -> None:
    data = io.BytesIO()
    contact_sheet("FaceCDM", subtitle, rows).save(data, "png", optimize=True)
    write_file(path, data.getvalue())


def write_report(path: Path, rows: list[SheetRow], options: argparse.Namespace) -> None:
    results = [
        {
            "reference": row.name,
            "prompt": result.prompt,
            "seed": options.seed,
            "identity": result.similarity,
            "made": result.picture is not None,
            "problem": result.problem,
        }
        for row in rows
        for result in row.results
    ]
    write_file(path, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())


def serve(address: str, local: "LocalServer | None") -> None:
    """Keep the server running until Ctrl-C or until it ends."""
    print(f"\nComfyUI stays up at http://{address} (Templates → FaceCDM). Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while local is None or local.alive:
            time.sleep(0.5)
