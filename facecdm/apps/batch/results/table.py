"""results.csv: one line per file, and one per job without files."""

import csv
import io
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....comfy_api.workflow import Workflow
from ....files import write_atomically
from ..plan.rows import Upload

if TYPE_CHECKING:
    from ..execution.journal import FileRecord, JobRecord, Journal
    from ..plan.jobs import Batch, Job

NAME = "results.csv"
# These precede the plan's own columns.
COLUMNS = ("job", "file", "state", "message", "server", "seconds", "attempts", "identity", "faces", "detection")
WARNINGS = "warnings"  # the last column


def write_table(batch: "Batch", journal: "Journal", folder: Path) -> None:
    """Write COLUMNS, the plan's values, all other parameters of the workflow, and WARNINGS. Raises OSError."""
    files = {number: list(found) for number, found in groupby(journal.files(), lambda file: file.job)}
    names = list(batch.targets)
    constant = _constants(batch)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *names, *constant, WARNINGS])
    for job, entry in zip(batch.jobs, journal.entries()):
        values = [_cell(job, batch, name) for name in names]
        for file in files.get(job.number) or [None]:
            warnings = " | ".join(entry.warnings.splitlines())
            table.writerow([*_results(entry, file), *values, *constant.values(), warnings])
    write_atomically(folder / NAME, text.getvalue().encode("utf-8", "replace"))


def _results(entry: "JobRecord", file: "FileRecord | None") -> list[Any]:
    """One row's values, in the order of COLUMNS."""
    path = (file.kept or file.path) if file else ""
    measured = (_rounded(file.identity), file.faces, _rounded(file.detection)) if file else ("", "", "")
    server = entry.server if entry.state == "done" else ""
    message = " ".join(entry.message.split())
    return [entry.number, path, entry.state, message, server, entry.seconds, entry.attempts, *measured]


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, 4)


def _cell(job: "Job", batch: "Batch", name: str) -> Any:
    """The queued value, or the path of a file."""
    value = job.row.get(name, "")
    if isinstance(value, Upload):
        return str(value.path)
    keys = batch.targets[name]
    return job.edits[keys[0]] if keys and name in job.row else value


def _constants(batch: "Batch") -> dict[str, Any]:
    """Parameters that the plan does not set: "Title.input" → value."""
    varied = {key for keys in batch.targets.values() for key in keys}
    found = {}
    for node_id, node in batch.workflow.nodes.items():
        for name, value in node["inputs"].items():
            if (node_id, name) not in varied and not batch.workflow.is_link(value):
                found[f"{_title(batch.workflow, node_id)}.{name}"] = value
    return found


def _title(workflow: Workflow, node_id: str) -> str:
    title = workflow.title(node_id)
    is_unique = sum(workflow.title(other) == title for other in workflow.nodes) == 1
    return title if is_unique else f"{title} ({node_id})"
