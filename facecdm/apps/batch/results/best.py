"""Keep the best images of each person and prompt; move the others to a separate folder."""

import os
from collections import Counter
from pathlib import Path

from ....comfy_api.names import inside
from ..execution.journal import FileRecord, Journal
from ..plan.jobs import Batch
from ..plan.naming import key_of
from ..plan.rows import Upload

NOT_KEPT = "not-kept"


def keep_best(batch: Batch, journal: Journal, folder: Path) -> list[str]:
    """If the plan says so, move all but the most similar images of each person and prompt. Raises OSError.

    All images of a person and prompt stay if none of them has an identity similarity. Returns notes, one per line.
    """
    most = batch.plan.keep_best
    if most is None:
        return []
    groups: dict[tuple[str, str], list[FileRecord]] = {}
    for file in journal.files():
        job = batch.jobs[file.job - 1]
        groups.setdefault((key_of(batch.person(job)), batch.prompt(job)), []).append(file)
    unranked: Counter[str] = Counter()
    gone = 0
    for files in groups.values():
        similar = [file for file in files if file.identity is not None]
        best = sorted(similar, key=lambda file: (-file.identity, file.job))
        ranked = best + [file for file in files if file.identity is None]
        if not similar and len(files) > most:
            unranked[_name(batch, files[0])] += len(files)
        for rank, file in enumerate(ranked):
            stays = rank < most or not similar
            gone += not _move(journal, folder, file, None if stays else f"{NOT_KEPT}/{file.path}")
    notes = [
        f"keep_best: all {count} pictures of {name} stay: no identity is measured to choose among them"
        for name, count in unranked.items()
    ]
    return notes + [f"keep_best: {gone} pictures are no longer in {NOT_KEPT}"] * (gone > 0)


def _name(batch: Batch, file: FileRecord) -> str:
    person = batch.person(batch.jobs[file.job - 1])
    return person.path.name if isinstance(person, Upload) else str(person)


def _move(journal: Journal, folder: Path, file: FileRecord, kept: str | None) -> bool:
    """Move a file and record the move; return False if it was deleted. An interrupted run may have moved it already."""
    if kept == file.kept:
        return True
    source, target = inside(folder, file.kept or file.path), inside(folder, kept or file.path)
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    elif not target.exists():
        return file.kept is None  # one that is missing from its first place is not counted
    journal.moved(file, kept)
    return True
