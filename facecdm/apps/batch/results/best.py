"""Keep the best images of each person and prompt; move the others to a separate folder."""

import math
import os
from pathlib import Path

from ....comfy_api.names import inside
from ..execution.journal import FileRecord, Journal
from ..plan.jobs import Batch

NOT_KEPT = "not-kept"


def keep_best(batch: Batch, journal: Journal, folder: Path) -> None:
    """If the plan says so, move all but the most similar images of each person and prompt. Raises OSError."""
    most = batch.plan.keep_best
    if most is None:
        return
    groups: dict[tuple[str, str], list[FileRecord]] = {}
    for file in journal.files():
        job = batch.jobs[file.job - 1]
        groups.setdefault((str(batch.person(job)), batch.prompt(job)), []).append(file)
    for files in groups.values():
        files.sort(key=lambda file: (-math.inf if file.identity is None else file.identity, -file.job), reverse=True)
        for rank, file in enumerate(files):
            _move(journal, folder, file, None if rank < most else f"{NOT_KEPT}/{file.path}")


def _move(journal: Journal, folder: Path, file: FileRecord, kept: str | None) -> None:
    """Move a file and record the move. An interrupted run may have moved it already."""
    if kept == file.kept:
        return
    source, target = inside(folder, file.kept or file.path), inside(folder, kept or file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        os.replace(source, target)
    journal.moved(file, kept)
