"""Make one image of a workflow: queue it, wait for it, write it, measure it."""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..comfy_api.client import Client
from ..comfy_api.errors import BadAnswer, JobFailed
from ..comfy_api.names import inside, sanitise_filename
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError
from ..files import write_file
from ..pictures import open_picture
from .progress import ProgressLine
from .references import Reference
from .sheet import SheetImage, SheetRow
from .similarity import SimilarityMeter


@dataclass(frozen=True)
class Job:
    """
    reference  the reference
    number     number of the image; part of its file name
    prompt     prompt or settings, shown below the image
    workflow   the workflow to queue
    """

    reference: Reference
    number: int
    prompt: str
    workflow: Workflow

    @property
    def stem(self) -> str:
        return Path(self.reference.name).stem


async def make_all(
    address: str,
    jobs_of: Callable[[list[str]], list[Job]],
    references: list[Reference],
    meter: SimilarityMeter | None,
    output: Path,
) -> list[SheetRow]:
    """Upload the references, queue all jobs and finish each. If stopped, cancel the remaining jobs.

    jobs_of  makes the jobs from the names of the uploads
    """
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
                result = await finish(client, job, prompt_id, line, meter, output)
                line.end(result.problem or result.verdict)
                results[job.reference.name].append(result)
                queued.popleft()
        finally:
            for _, prompt_id in queued:
                with contextlib.suppress(FaceCDMError):
                    await client.cancel(prompt_id)
    return [SheetRow(item.name, item.picture, tuple(results[item.name])) for item in references]


async def finish(
    client: Client, job: Job, prompt_id: str, line: ProgressLine, meter: SimilarityMeter | None, output: Path
) -> SheetImage:
    """Wait for a queued job, write and measure its image. A failed job gives a SheetImage with the reason."""
    from PIL import ImageOps

    try:
        done = await client.wait(prompt_id, line.step)
    except JobFailed as error:
        return SheetImage(job.prompt, None, problem=str(error))
    for text in done.warnings():
        line.note(text)
    pictures = done.images()
    if not pictures:
        return SheetImage(job.prompt, None, problem=f"{job.workflow.name} saved no picture")
    data = await client.fetch(pictures[0])
    try:
        picture = ImageOps.exif_transpose(open_picture(data)).convert("RGB")
    except Exception as error:  # Pillow raises many types
        raise BadAnswer(f"{client.url} sent no picture that can be read ({error!s:.200})") from error
    write_file(inside(output, sanitise_filename(f"{job.stem}-{job.number}.png")), data)
    if meter is None:
        return SheetImage(job.prompt, picture, measured=False)
    return SheetImage(job.prompt, picture, meter.measure(job.reference.name, picture)[0])
