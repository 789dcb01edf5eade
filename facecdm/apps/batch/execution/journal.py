"""State of a batch on disk. A job is recorded before a server gets it, and is done once its files are complete.

It is one SQLite file in the output folder. The process that runs the batch holds a lock on it.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....comfy_api.names import one_line
from ..errors import DiskFull, JournalMistake
from ..plan.uploads import UNREADABLE

NAME = "journal.sqlite"
VERSION = "1"
WAITING, DONE, FAILED = "waiting", "done", "failed"
TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0, server TEXT, prompt_id TEXT, message TEXT NOT NULL DEFAULT '', seconds REAL,
    warnings TEXT NOT NULL DEFAULT '');
CREATE TABLE files (
    job INTEGER NOT NULL REFERENCES jobs, number INTEGER NOT NULL, path TEXT NOT NULL UNIQUE COLLATE NOCASE,
    kept TEXT, measured INTEGER NOT NULL DEFAULT 0, identity REAL, faces INTEGER, detection REAL,
    PRIMARY KEY (job, number));
"""


@dataclass(frozen=True)
class JobRecord:
    """A job.

    number     index of the job, from 1
    state      WAITING, DONE or FAILED (set aside)
    attempts   number of finished attempts, failed or successful
    losses     how often its server became unreachable or lost it
    server     the one that has or finished it
    prompt_id  its id on that server, until it is done or set aside
    message    error of the last failed attempt
    seconds    run time
    warnings   of its nodes, one a line
    """

    number: int
    state: str
    attempts: int
    losses: int
    server: str | None
    prompt_id: str | None
    message: str
    seconds: float | None
    warnings: str = ""


@dataclass(frozen=True)
class FileRecord:
    """A file of a job.

    job        its number
    number     index of the file, from 1
    path       first path, below the output folder; never changes
    kept       its current path, None if it is at `path`
    measured   whether face detection has run
    identity   identity similarity to the reference, -1 … 1
    faces      number of faces
    detection  score of the largest face, 0 … 1
    """

    job: int
    number: int
    path: str
    kept: str | None
    measured: bool
    identity: float | None
    faces: int | None
    detection: float | None


class Journal:
    """Use as a context manager. Raises JournalMistake if it belongs to another batch, DiskFull if a write fails."""

    def __init__(self, folder: Path, record: dict[str, Any], resume: bool):
        self.path = folder / NAME
        record = json.loads(json.dumps(record, default=str))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise JournalMistake(f"{self.path} cannot be written: {error}") from error
        try:
            self._open(record, resume)
        except BaseException:
            self._db.close()
            raise

    def _open(self, record: dict[str, Any], resume: bool) -> None:
        try:
            with _disk_errors():
                # This lock stays until the connection is closed.
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("BEGIN EXCLUSIVE")
                self._db.execute("COMMIT")
                there = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                known = dict(self._db.execute("SELECT name, value FROM facts")) if there else {}
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalMistake(f"another batch works in {self.path.parent}: wait for it, or stop it") from error
            raise JournalMistake(f"{self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise JournalMistake(f"{self.path} is no journal ({error}): choose another output folder") from error
        if there and known.get("version") == VERSION:
            self._add_columns()
        if there and known.get("version") == VERSION and self._untouched():
            with self._writing():
                for table in ("facts", "files", "jobs"):
                    self._db.execute(f"DROP TABLE {table}")
            there = 0
        if not there:
            self._begin(record)
            return
        if known.get("version") != VERSION:
            raise JournalMistake(f"{self.path} was written by another version: choose another output folder")
        before = json.loads(known["record"])
        equate_files(before, record)
        if lines := differences(before, record):
            raise JournalMistake(
                f"{self.path.parent} was started with another plan:\n"
                + "\n".join(f"  {line}" for line in lines)
                + "\nChange it back, or choose another output folder."
            )
        if not resume:
            done = sum(entry.state == DONE for entry in self.entries())
            raise JournalMistake(
                f"{self.path.parent} has {done} of {len(record['jobs'])} jobs of this plan: resume with --resume, "
                "or choose another output folder"
            )
        if known["record"] != json.dumps(record):
            with self._writing():
                self._db.execute("UPDATE facts SET value = ? WHERE name = 'record'", (json.dumps(record),))

    def _add_columns(self) -> None:
        """Add what the journals of earlier releases lack."""
        if "warnings" not in {row[1] for row in self._db.execute("PRAGMA table_info(jobs)")}:
            with self._writing():
                self._db.execute("ALTER TABLE jobs ADD COLUMN warnings TEXT NOT NULL DEFAULT ''")

    def _untouched(self) -> bool:
        """Whether no job was ever given to a server."""
        query = "SELECT count(*) FROM jobs WHERE prompt_id IS NOT NULL OR state != ? OR attempts + losses > 0"
        return self._db.execute(query, (WAITING,)).fetchone()[0] == 0

    def _begin(self, record: dict[str, Any]) -> None:
        with self._writing():
            for statement in TABLES.split(";"):
                self._db.execute(statement)
            facts = {"version": VERSION, "record": json.dumps(record)}
            self._db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            numbers = range(1, len(record["jobs"]) + 1)
            self._db.executemany("INSERT INTO jobs (number) VALUES (?)", ((number,) for number in numbers))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    # ---- jobs ----

    def entries(self) -> list[JobRecord]:
        return [
            JobRecord(*row)
            for row in self._db.execute(
                "SELECT number, state, attempts, losses, server, prompt_id, message, seconds, warnings "
                "FROM jobs ORDER BY number"
            )
        ]

    def queued(self, number: int, server: str, prompt_id: str) -> None:
        """Record the server of a job. Call this before the server gets the job."""
        self._set(number, server=server, prompt_id=prompt_id)

    def free(self, number: int, lost: bool = False) -> None:
        """Take the job from its server. `lost`: count the loss of the server."""
        self._set(number, prompt_id=None, server=None, add="losses" if lost else None)

    def tried(self, number: int, message: str) -> None:
        """Record a failed attempt; the job waits for the next one."""
        self._set(number, prompt_id=None, message=message, add="attempts")

    def failed(self, number: int, message: str) -> None:
        """Set the job aside."""
        self._set(number, state=FAILED, prompt_id=None, message=message)

    def done(self, number: int, server: str, seconds: float | None, warnings: Iterable[str] = ()) -> None:
        """Record that its files are complete and on disk."""
        lines = "\n".join(one_line(text) for text in warnings)
        self._set(
            number, "attempts", state=DONE, server=server, prompt_id=None, message="", seconds=seconds, warnings=lines
        )

    def retry_failed(self) -> None:
        with self._writing():
            self._db.execute("UPDATE jobs SET state = ?, attempts = 0, losses = 0 WHERE state = ?", (WAITING, FAILED))

    def _set(self, number: int, add: str | None = None, **values: Any) -> None:
        values = {
            name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for name, value in values.items()
        }  # a server's text may contain lone surrogates
        changes = [f"{name} = :{name}" for name in values] + ([f"{add} = {add} + 1"] if add else [])
        with self._writing():
            self._db.execute(
                f"UPDATE jobs SET {', '.join(changes)} WHERE number = :number", {**values, "number": number}
            )

    # ---- files ----

    def claim(self, job: int, names: list[str], suffixes: list[str], folder: Path) -> list[str]:
        """Paths for the files of a job, the same on every call. Paths of other jobs and existing files are avoided."""
        with self._writing():
            held = {row[0]: row[1] for row in self._db.execute("SELECT number, path FROM files WHERE job = ?", (job,))}
            for number, (name, suffix) in enumerate(zip(names, suffixes), 1):
                if number in held and held[number].endswith(suffix):
                    continue
                held[number] = next(path for path in _candidates(name, suffix) if self._is_free(path, folder))
                self._db.execute(
                    "INSERT OR REPLACE INTO files (job, number, path) VALUES (?, ?, ?)", (job, number, held[number])
                )
            self._db.execute("DELETE FROM files WHERE job = ? AND number > ?", (job, len(names)))
        return [held[number] for number in range(1, len(names) + 1)]

    def _is_free(self, path: str, folder: Path) -> bool:
        taken = self._db.execute("SELECT 1 FROM files WHERE path = ?", (path,)).fetchone()
        return not taken and not (folder / path).exists()

    def files(self, job: int | None = None) -> list[FileRecord]:
        """Files of all done jobs, or of one done job."""
        return [
            FileRecord(*row[:4], bool(row[4]), *row[5:])
            for row in self._db.execute(
                "SELECT job, files.number, path, kept, measured, identity, faces, detection "
                "FROM files JOIN jobs ON jobs.number = job WHERE state = ? AND job = coalesce(?, job) "
                "ORDER BY job, files.number",
                (DONE, job),
            )
        ]

    def unfinished_files(self) -> list[str]:
        """Paths of jobs that are not done. A file at such a path is left over from an interrupted attempt."""
        return [
            row[0]
            for row in self._db.execute(
                "SELECT path FROM files JOIN jobs ON jobs.number = job WHERE state != ?", (DONE,)
            )
        ]

    def measured(self, file: FileRecord, identity: float | None, faces: int, detection: float | None) -> None:
        with self._writing():
            self._db.execute(
                "UPDATE files SET measured = 1, identity = ?, faces = ?, detection = ? WHERE job = ? AND number = ?",
                (identity, faces, detection, file.job, file.number),
            )

    def measure_with(self, settings: str) -> bool:
        """Record what the images are measured with. After other settings, forget all measurements; return whether."""
        before = self._db.execute("SELECT value FROM facts WHERE name = 'measured with'").fetchone()
        if before == (settings,):
            return False
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('measured with', ?)", (settings,))
            if before is None:  # a new journal, or one of an earlier release
                return False
            changed = self._db.execute(
                "UPDATE files SET measured = 0, identity = NULL, faces = NULL, detection = NULL WHERE measured"
            )
            return changed.rowcount > 0

    def moved(self, file: FileRecord, kept: str | None) -> None:
        with self._writing():
            self._db.execute("UPDATE files SET kept = ? WHERE job = ? AND number = ?", (kept, file.job, file.number))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _disk_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raise DiskFull for SQLite's errors about the disk."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if any(part in str(error) for part in ("full", "disk I/O", "readonly")):
            raise DiskFull(f"the journal could not be written ({error}): free some space, then --resume") from error
        raise


def _candidates(name: str, suffix: str) -> Iterator[str]:
    yield name + suffix
    yield from (f"{name}_{number}{suffix}" for number in range(2, 1_000_000))


def recorded_jobs(folder: Path) -> list[dict[str, Any]]:
    """The values of the jobs in the journal of an output folder; empty without a journal that can be read."""
    try:
        with closing(sqlite3.connect(f"{(folder / NAME).absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as db:
            jobs = json.loads(db.execute("SELECT value FROM facts WHERE name = 'record'").fetchone()[0])["jobs"]
        return [job if isinstance(job, dict) else {} for job in jobs]
    except (sqlite3.Error, OSError, ValueError, LookupError, TypeError):
        return []


def equate_files(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Where a file is unreadable in one record, take its text from the other: a file may be lost, and come back."""
    for was, is_ in zip(before["jobs"], now["jobs"]):
        for name in was.keys() & is_.keys():
            for bad, good in ((was, is_), (is_, was)):
                text = bad[name] if isinstance(bad[name], str) else ""
                digest_of = text.removesuffix(UNREADABLE) + " (SHA-256 "
                if text.endswith(UNREADABLE) and str(good[name]).startswith(digest_of):
                    bad[name] = good[name]


def differences(before: dict[str, Any], now: dict[str, Any], most: int = 8) -> list[str]:
    """Differences between two records, one per line: at most `most`, then a count of the others."""
    lines: list[str] = []
    old, new = before["workflow"], now["workflow"]
    for node_id in {**old, **new}:
        if node_id not in old or node_id not in new:
            lines.append(f"workflow: node {node_id} is {'new' if node_id in new else 'gone'}")
            continue
        was, is_ = old[node_id]["inputs"], new[node_id]["inputs"]
        kind = new[node_id]["class_type"]
        title = (new[node_id].get("_meta") or {}).get("title") or kind
        if kind != old[node_id]["class_type"]:
            lines.append(f"workflow: node {node_id} is {kind}, it was {old[node_id]['class_type']}")
        lines += [
            f"workflow: {title}.{name} is {_short(is_.get(name))}, it was {_short(was.get(name))}"
            for name in {**was, **is_}
            if was.get(name) != is_.get(name)
        ]
    was, is_ = (record.get("inputs", {}) for record in (before, now))
    lines += [
        f"inputs: {name} goes to {_short(is_.get(name))}, it went to {_short(was.get(name))}"
        for name in {**was, **is_}
        if was.get(name) != is_.get(name)
    ]
    if len(before["jobs"]) != len(now["jobs"]):
        lines.append(f"jobs: there are {len(now['jobs'])}, there were {len(before['jobs'])}")
    for number, (was, is_) in enumerate(zip(before["jobs"], now["jobs"]), 1):
        lines += [
            f"job {number}: {name} is {_short(is_.get(name))}, it was {_short(was.get(name))}"
            for name in {**was, **is_}
            if was.get(name) != is_.get(name)
        ]
    return lines[:most] + [f"… and {len(lines) - most} more"] * (len(lines) > most)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 90 else f"{text[:60]}…{text[-28:]}"
