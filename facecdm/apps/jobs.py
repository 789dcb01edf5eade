"""Make one image of a workflow: queue it, wait for it, write it, measure it."""

import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..comfy_api.client import Client
from ..comfy_api.errors import BadAnswer, JobFailed, JobInterrupted, JobLost, WorkflowRejected
from ..comfy_api.names import inside, one_line
from ..comfy_api.workflow import Workflow
from ..errors import FaceCDMError
from ..files import write_file
from ..pictures import open_picture, upright_rgb
from .progress import ProgressLine
from .references import Reference
from .sheet import SheetImage, SheetRow
from .similarity import SimilarityMeter

PROBLEMS = (BadAnswer, JobFailed, JobInterrupted, JobLost, WorkflowRejected)  # of one job; the others continue


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


def picture_name(reference: Reference, number: int) -> str:
    """File name of a reference's picture with this number."""
    return f"{Path(reference.name).stem}-{number}.png"


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
        queued: deque[tuple[Job, str | FaceCDMError]] = deque()
        try:
            for job in jobs:
                queued.append((job, await submit(client, job)))
            while queued:
                job, submitted = queued[0]
                line.begin(f"{job.stem} · {job.prompt}")
                result = await finish(client, job, submitted, line, meter, output)
                line.end(result.problem or result.verdict)
                results[job.reference.name].append(result)
                queued.popleft()
        finally:
            for _, submitted in queued:
                with contextlib.suppress(FaceCDMError):
                    if isinstance(submitted, str):
                        await client.cancel(submitted)
    return [SheetRow(item.name, item.picture, tuple(results[item.name])) for item in references]


async def submit(client: Client, job: Job) -> str | FaceCDMError:
    """Queue a job; return its id, or the error if the server refuses it."""
    try:
        return await client.submit(job.workflow)
    except PROBLEMS as error:
        return error


async def finish(
    client: Client,
    job: Job,
    submitted: str | FaceCDMError,
    line: ProgressLine,
    meter: SimilarityMeter | None,
    output: Path,
) -> SheetImage:
    """Wait for a job, write and measure its image. A job without image gives a SheetImage with the reason.

    submitted  the answer of `submit`
    """
    try:
        if isinstance(submitted, FaceCDMError):
            raise submitted
        return await _finish(client, job, submitted, line, meter, output)
    except PROBLEMS as error:
        return SheetImage(job.prompt, None, problem=one_line(str(error)))


async def _finish(
    client: Client, job: Job, prompt_id: str, line: ProgressLine, meter: SimilarityMeter | None, output: Path
) -> SheetImage:
    done = await client.wait(prompt_id, line.step)
    for text in done.warnings():
        line.note(text)
    pictures = done.images()
    if not pictures:
        return SheetImage(job.prompt, None, problem=f"{job.workflow.name} saved no picture")
    data = await client.fetch(pictures[0])
    try:
        picture = upright_rgb(open_picture(data))
    except Exception as error:  # Pillow raises many types
        name = pictures[0].filename
        raise BadAnswer(f"{client.url} sent {name:.100}, which cannot be read as a picture ({error!s:.200})") from error
    write_file(inside(output, picture_name(job.reference, job.number)), data)
    if meter is None:
        return SheetImage(job.prompt, picture, measured=False)
    return SheetImage(job.prompt, picture, meter.measure(job.reference.name, picture)[0])
