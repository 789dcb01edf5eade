"""What a batch leaves beside its pictures: results.csv, contact sheets, and the best of each person and prompt."""

import csv
import io
import math
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...comfy_api.names import inside, sanitise_filename
from ...comfy_api.workflow import Workflow
from ...files import write_atomically
from ..sheet import SheetImage, SheetRow, contact_sheet
from .jobs import COLUMNS, Batch, Job
from .journal import DONE, FAILED, WAITING, FileRecord, JobRecord, Journal
from .naming import PICTURES, labels
from .rows import Upload

if TYPE_CHECKING:
    from PIL.Image import Image

NOT_KEPT, SHEETS, TABLE = "not-kept", "sheets", "results.csv"
ACROSS, DOWN, CELL = 8, 12, 192  # pictures of a contact sheet


# ---- the table ----


def write_table(batch: Batch, journal: Journal, folder: Path) -> None:
    """results.csv: a line for every file, and one for every job without; every parameter. Raises OSError."""
    files = {number: list(found) for number, found in groupby(journal.files(), lambda file: file.job)}
    names = list(batch.targets)
    constant = _constants(batch)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *names, *constant])
    for job, entry in zip(batch.jobs, journal.entries()):
        values = [_cell(job, batch, name) for name in names]
        for file in files.get(job.number) or [None]:
            table.writerow([*_results(entry, file), *values, *constant.values()])
    write_atomically(folder / TABLE, text.getvalue().encode("utf-8", "replace"))


def _results(entry: JobRecord, file: FileRecord | None) -> list[Any]:
    """The values of COLUMNS."""
    place = (file.kept or file.path) if file else ""
    seen = (_rounded(file.identity), file.faces, _rounded(file.detection)) if file else ("", "", "")
    server = entry.server if entry.state == DONE else ""
    return [
        entry.number,
        place,
        entry.state,
        " ".join(entry.message.split()),
        server,
        entry.seconds,
        entry.attempts,
        *seen,
    ]


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, 4)


def _cell(job: Job, batch: Batch, name: str) -> Any:
    """The value as it was queued; a file by its path."""
    value = job.row.get(name, "")
    if isinstance(value, Upload):
        return str(value.path)
    places = batch.targets[name]
    return job.edits[places[0]] if places and name in job.row else value


def _constants(batch: Batch) -> dict[str, Any]:
    """The parameters that the plan leaves as they are in the workflow, by "Title.input"."""
    varied = {place for places in batch.targets.values() for place in places}
    found = {}
    for node_id, node in batch.workflow.nodes.items():
        for name, value in node["inputs"].items():
            if (node_id, name) not in varied and not batch.workflow.is_link(value):
                found[f"{_title(batch.workflow, node_id)}.{name}"] = value
    return found


def _title(workflow: Workflow, node_id: str) -> str:
    title = workflow.title(node_id)
    alone = sum(workflow.title(other) == title for other in workflow.nodes) == 1
    return title if alone else f"{title} ({node_id})"


# ---- the best ----


def keep_best(batch: Batch, journal: Journal, folder: Path) -> None:
    """The most alike of each person and prompt stay; the others go into a folder of their own. Raises OSError."""
    most = batch.plan.keep_best
    if most is None:
        return
    groups: dict[tuple[str, str], list[FileRecord]] = {}
    for file in journal.files():
        job = batch.jobs[file.job - 1]
        groups.setdefault((str(batch.person(job)), batch.prompt(job)), []).append(file)
    for files in groups.values():
        files.sort(key=lambda file: (-math.inf if file.identity is None else file.identity, -file.job), reverse=True)
        for place, file in enumerate(files):
            _move(journal, folder, file, None if place < most else f"{NOT_KEPT}/{file.path}")


def _move(journal: Journal, folder: Path, file: FileRecord, kept: str | None) -> None:
    """A move that was cut off before the journal heard of it is made good."""
    if kept == file.kept:
        return
    source, target = inside(folder, file.kept or file.path), inside(folder, kept or file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        os.replace(source, target)
    journal.moved(file, kept)


# ---- contact sheets ----


def write_sheets(batch: Batch, journal: Journal, folder: Path) -> None:
    """sheets/PERSON.jpg, further pages as "PERSON page 2.jpg" …; a row for every prompt. Raises OSError."""
    people = labels([batch.person(job) for job in batch.jobs])
    files: dict[int, list[FileRecord]] = {}
    for file in journal.files():
        if file.kept is None:
            files.setdefault(file.job, []).append(file)
    entries = journal.entries()
    for person in dict.fromkeys(people):
        jobs = [job for job, whose in zip(batch.jobs, people) if whose == person]
        rows = list(_rows(batch, jobs, files, entries))
        for page, start in enumerate(range(0, len(rows), DOWN), 1):
            name = sanitise_filename(f"{person or 'all'}{f' page {page}' if page > 1 else ''}.jpg")
            _write_page(batch, folder, inside(folder, f"{SHEETS}/{name}"), person, jobs[0], rows[start : start + DOWN])


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
    said = [
        f"{name} {value}"
        for name, value in job.row.items()
        if name not in (batch.person_name, batch.prompt_name) and not isinstance(value, Upload)
    ]
    words = ", ".join([f"job {job.number}", *said])
    if file is None:
        return SheetImage(words, None, problem=entry.message if entry.state in (FAILED, WAITING) else "")
    picture = _thumbnail(inside(folder, file.path)) if file.path.endswith(PICTURES) else None
    problem = "" if picture else file.path
    return SheetImage(words, picture, file.identity, problem, measured=file.measured and file.faces == 0)


def _thumbnail(path: Path) -> "Image | None":
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (CELL, CELL))
            picture = ImageOps.exif_transpose(picture).convert("RGB")
            picture.thumbnail((CELL, CELL))
            return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
