"""The quick start's portraits: references × prompts through one workflow, and a contact sheet of them.

The workflow is edited by title: "Reference" (LoadImage), "Prompt" (CLIPTextEncode); KSampler and SaveImage by
class. Any API-format workflow with these four works.
"""

import argparse
import asyncio
import contextlib
import io
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.client import Client
from ..comfy_api.errors import JobFailed, ServerDied, ServerUnreachable
from ..comfy_api.names import inside, sanitise_filename
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError, MissingModel
from ..files import REPOSITORY
from .progress import ProgressLine
from .references import Reference, lay_out_examples, read_references
from .sheet import SheetImage, SheetRow, contact_sheet

if TYPE_CHECKING:
    from ..comfy_api.server import LocalServer
    from .likeness import Likeness

WORKFLOW = REPOSITORY / "workflows" / "api" / "portrait.json"
# In the language of FaceWorld's captions, the only one that the demo model has learnt.
PROMPTS = (
    "a young woman, long blond hair, smiling, red striped shirt, plain blue background",
    "a middle-aged woman, short black hair, neutral, white shirt, gradient green background",
    "a young woman, red hair in a bun, laughing, purple shirt, blurred yellow background",
)


def existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--reference",
        type=existing_file,
        action="append",
        metavar="PICTURE",
        help="a picture of a person who agreed; repeatable (default: two that come with the demo)",
    )
    add("--prompt", action="append", metavar="WORDS", help="what to show; repeatable (default: three)")
    add("--workflow", type=existing_file, metavar="JSON", help="another workflow in API format")
    add("--steps", type=int, metavar="N", help="sampler steps (default: the workflow's)")
    add("--seed", type=int, default=1, metavar="N", help="the same seed gives the same pictures (default: 1)")
    add("--output", type=Path, metavar="DIR", help="where to (default: output/demo-DATE-TIME in the clone)")
    add("--port", type=int, metavar="N", help="the server's port (default: a free one)")
    add("--serve", action="store_true", help="leave the server up afterwards, to be used in a browser")


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--comfyui", type=Path, metavar="DIR", help="start this ComfyUI")
    add("--base", type=Path, metavar="DIR", help="its base directory (models, input, output)")
    add("--server", metavar="ADDRESS", help="or use the server that runs there")
    add("--pack", default="buffalo_s", metavar="NAME", help="face pack that measures likeness")


# ---- what is made ----


@dataclass(frozen=True)
class Job:
    reference: Reference
    number: int
    prompt: str
    workflow: Workflow

    @property
    def stem(self) -> str:
        return Path(self.reference.name).stem


def plan(
    workflow: Workflow,
    references: list[Reference],
    prompts: list[str],
    uploaded: list[str],
    seed: int,
    steps: int | None,
) -> list[Job]:
    """Every reference with every prompt. Raises WorkflowMistake where the workflow lacks a node for it."""
    workflow = workflow.set("KSampler", "seed", seed)
    if steps is not None:
        workflow = workflow.set("KSampler", "steps", steps)
    jobs = []
    for reference, name in zip(references, uploaded, strict=True):
        for number, prompt in enumerate(prompts, 1):
            mine = workflow.set("Reference", "image", name).set("Prompt", "text", prompt)
            mine = mine.set("SaveImage", "filename_prefix", f"FaceCDM/{Path(reference.name).stem}")
            jobs.append(Job(reference, number, prompt, mine))
    return jobs


async def make(
    address: str,
    jobs_of: Callable[[list[str]], list[Job]],
    references: list[Reference],
    likeness: "Likeness | None",
    output: Path,
) -> list[SheetRow]:
    """Uploads, queues all, waits, fetches, measures and writes. `jobs_of` takes the uploads' names."""
    async with Client(address, patience=5) as client:
        jobs = jobs_of([await client.upload(item.data, item.name) for item in references])
        line = ProgressLine(len(jobs))
        results: dict[str, list[SheetImage]] = {item.name: [] for item in references}
        queued: deque[tuple[Job, str]] = deque()
        try:
            for job in jobs:
                queued.append((job, await client.submit(job.workflow)))
            while queued:
                job, prompt_id = queued[0]
                line.begin(f"{job.stem} · {job.prompt}")
                result = await finish(client, job, prompt_id, line, likeness, output)
                line.end(result.problem or result.verdict)
                results[job.reference.name].append(result)
                queued.popleft()
        finally:
            for _, prompt_id in queued:  # we were stopped: leave no work behind
                with contextlib.suppress(FaceCDMError):
                    await client.cancel(prompt_id)
    return [SheetRow(item.name, item.picture, tuple(results[item.name])) for item in references]


async def finish(
    client: Client, job: Job, prompt_id: str, line: ProgressLine, likeness: "Likeness | None", output: Path
) -> SheetImage:
    """One job's picture, written and measured; a job that fails gives a Result that says why."""
    from PIL import Image

    try:
        pictures = (await client.wait(prompt_id, line.step)).images()
    except JobFailed as error:
        return SheetImage(job.prompt, None, problem=str(error))
    if not pictures:
        return SheetImage(job.prompt, None, problem=f"{job.workflow.name} saved no picture")
    data = await client.fetch(pictures[0])
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    inside(output, sanitise_filename(f"{job.stem}-{job.number}.png")).write_bytes(data)
    if likeness is None:
        return SheetImage(job.prompt, picture, measured=False)
    return SheetImage(job.prompt, picture, likeness.of(job.reference.name, picture))


# ---- the command ----


def main(options: argparse.Namespace) -> int:
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _stop)
    workflow = Workflow.load(options.workflow or WORKFLOW)
    references = read_references(options.reference)
    prompts = options.prompt or list(PROMPTS)
    output = (options.output or Path("output") / time.strftime("demo-%Y%m%d-%H%M%S")).absolute()
    output.mkdir(parents=True, exist_ok=True)

    def jobs_of(uploaded: list[str]) -> list[Job]:
        return plan(workflow, references, prompts, uploaded, options.seed, options.steps)

    with running(options) as (address, local):
        print(f"ComfyUI answers at http://{address} ({time.monotonic() - started:.0f} s)", flush=True)
        likeness = measure(options, references)
        try:
            rows = asyncio.run(make(address, jobs_of, references, likeness, output))
        except ServerUnreachable as error:
            if local is not None and not local.alive:
                raise ServerDied(f"ComfyUI ended by itself; {local.log} ends:\n{local.tail()}") from error
            raise
        sheet = output / "contact-sheet.png"
        contact_sheet("FaceCDM", caption(workflow, options), rows).save(sheet, optimize=True)
        write_report(output / "report.json", rows, options)
        print(f"\nPictures:      {output}\nContact sheet: {sheet}\n({time.monotonic() - started:.0f} s)")
        if options.serve:
            serve(address, local)
    made = sum(result.picture is not None for row in rows for result in row.results)
    return 0 if made else 1


def _stop(*_: object) -> None:
    sys.exit(143)  # unwinds, so that the server ends with us


@contextlib.contextmanager
def running(options: argparse.Namespace) -> Iterator[tuple[str, "LocalServer | None"]]:
    """(address, the local server or None) while the block runs."""
    if options.server:
        yield options.server, None
        return
    if not options.comfyui:
        raise FaceCDMError("which ComfyUI? name its folder with --comfyui, or a running one with --server")
    from ..comfy_api.server import LocalServer, has_accelerator, link_pack

    base = (options.base or options.comfyui).absolute()
    link_pack(REPOSITORY, base)
    if options.base:  # a base directory of our own; in somebody's ComfyUI the input folder is theirs
        lay_out_examples(base / "input")
    with LocalServer(options.comfyui.absolute(), base, port=options.port, cpu=not has_accelerator()) as local:
        yield local.address, local


def measure(options: argparse.Namespace, references: list[Reference]) -> "Likeness | None":
    """What measures likeness; None, and a word about it, where it is not to be had. Raises NoFace."""
    from .likeness import Likeness

    base = options.base or options.comfyui
    try:
        if base is None:
            raise MissingModel("name the base directory with --base")
        likeness = Likeness(base / "models", options.pack)
    except FaceCDMError as error:
        print(f"Likeness is not measured: {error}", file=sys.stderr)
        return None
    for item in references:
        likeness.refer(item.name, item.picture)
    return likeness


def caption(workflow: Workflow, options: argparse.Namespace) -> str:
    steps = options.steps or workflow.get("KSampler", "steps")
    return (
        f"{workflow.name} · seed {options.seed} · {steps} steps · {time.strftime('%Y-%m-%d %H:%M')} · "
        "identity: cosine of face embeddings, 1 is the same picture"
    )


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
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def serve(address: str, local: "LocalServer | None") -> None:
    """Until Ctrl-C, or until the server ends."""
    print(f"\nComfyUI stays up at http://{address} (Templates → FaceCDM). Ctrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while local is None or local.alive:
            time.sleep(0.5)
