"""Contact sheets of a batch: one for each person, a row for each prompt."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ....comfy_api.names import inside, sanitise_filename, unique_name
from ....files import write_atomically
from ....pictures import open_picture, upright_rgb
from ...sheet import SheetImage, SheetRow, contact_sheet
from ..execution.journal import DONE, FAILED, WAITING, FileRecord, JobRecord, Journal
from ..execution.outputs import PICTURES
from ..plan.jobs import Batch, Job
from ..plan.naming import key_of, labels
from ..plan.rows import Upload

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "sheets"
ACROSS, DOWN, CELL = 8, 12, 192  # images per page, pixels per image


def write_sheets(batch: Batch, journal: Journal, folder: Path) -> None:
    """Write sheets/PERSON.jpg, and further pages as "PERSON page 2.jpg" …. Raises OSError."""
    people: dict[str, list[Job]] = {}  # by key, because two people may have one label
    for job in batch.jobs:
        people.setdefault(key_of(batch.person(job)), []).append(job)
    files: dict[int, list[FileRecord]] = {}
    for file in journal.files():
        if file.kept is None:
            files.setdefault(file.job, []).append(file)
    entries = journal.entries()
    taken: set[str] = set()
    for jobs, person in zip(people.values(), labels([batch.person(jobs[0]) for jobs in people.values()])):
        rows = list(_rows(batch, jobs, files, entries))
        stem = sanitise_filename(person or "all", 100)  # leaves room for the page and a number
        for page, start in enumerate(range(0, len(rows), DOWN), 1):
            name = unique_name(f"{stem} page {page}" if page > 1 else stem, taken)
            path = inside(folder, f"{FOLDER}/{name}.jpg")
            _write_page(batch, folder, path, person, jobs[0], rows[start : start + DOWN])


Cell = tuple[Job, JobRecord, FileRecord | None]


def _rows(
    batch: Batch, jobs: list[Job], files: dict[int, list[FileRecord]], entries: list[JobRecord]
) -> Iterator[tuple[str, list[Cell]]]:
    prompts: dict[str, list[Cell]] = {}
    for job in jobs:
        entry = entries[job.number - 1]
        made: list[FileRecord | None] = [*files.get(job.number, [])]
        if not made and entry.state != DONE:
            made = [None]
        prompts.setdefault(batch.prompt(job), []).extend((job, entry, file) for file in made)
    for prompt, cells in prompts.items():
        for start in range(0, len(cells), ACROSS):
            yield prompt, cells[start : start + ACROSS]


def _write_page(
    batch: Batch, folder: Path, path: Path, person: str, job: Job, rows: list[tuple[str, list[Cell]]]
) -> None:
    value = batch.person(job)
    reference = _thumbnail(value.path) if isinstance(value, Upload) else None
    sheet = contact_sheet(
        person or "All pictures",
        f"{batch.workflow.name} · identity: cosine of face embeddings, 1 is the same picture",
        [SheetRow(prompt, reference, tuple(_result(batch, folder, *cell) for cell in cells)) for prompt, cells in rows],
        CELL,
    )
    data = io.BytesIO()
    sheet.save(data, "jpeg", quality=90)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.getvalue())


def _result(batch: Batch, folder: Path, job: Job, entry: JobRecord, file: FileRecord | None) -> SheetImage:
    values = [
        f"{name} {value}"
        for name, value in job.row.items()
        if name not in (batch.person_name, batch.prompt_name) and not isinstance(value, Upload)
    ]
    caption = ", ".join([f"job {job.number}", *values])
    if file is None:
        return SheetImage(caption, None, problem=entry.message if entry.state in (FAILED, WAITING) else "")
    picture = _thumbnail(inside(folder, file.path)) if file.path.endswith(PICTURES) else None
    problem = "" if picture else file.path
    return SheetImage(caption, picture, file.identity, problem, measured=file.measured and file.faces == 0)


def _thumbnail(path: Path) -> "Image | None":
    from PIL import Image

    try:
        with open_picture(path) as picture:
            picture.draft("RGB", (CELL, CELL))
            picture = upright_rgb(picture)
            picture.thumbnail((CELL, CELL))
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
