"""A list and a dictionary on disk: memory does not grow with the pictures while a data set is prepared.

The files are temporary, without a name where the system allows it, in the folder for temporary files (TMPDIR).
"""

import json
import pickle
import sqlite3
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

T = TypeVar("T")


class DiskList(Sequence[T]):
    """A list on disk that grows at its end. Its memory is 8 bytes an item. Raises OSError, such as for a full disk."""

    def __init__(self, items: Iterable[T] = ()):
        self._file, self._starts = tempfile.TemporaryFile(), array("q", [0])  # noqa: SIM115 - as long as the list
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        self._file.seek(self._starts[-1])
        self._file.write(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
        self._starts.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        self._file.seek(self._starts[number])
        return pickle.load(self._file)  # noqa: S301 - written by this object


class DiskDict(Mapping[str, Any]):
    """A dictionary on disk from text to JSON values. Its memory is SQLite's cache of 2 MB. Raises sqlite3.Error."""

    def __init__(self):
        self._db = sqlite3.connect("", isolation_level=None)  # "": a temporary file
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE item (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __len__(self) -> int:
        return self._db.execute("SELECT count(*) FROM item").fetchone()[0]

    def __bool__(self) -> bool:
        return self._db.execute("SELECT 1 FROM item LIMIT 1").fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        """The keys, sorted."""
        return (key for (key,) in self._db.execute("SELECT key FROM item ORDER BY key"))

    def __contains__(self, key: object) -> bool:
        return self._db.execute("SELECT 1 FROM item WHERE key = ?", (key,)).fetchone() is not None

    def __getitem__(self, key: str) -> Any:
        found = self._db.execute("SELECT value FROM item WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return json.loads(found[0])

    def put(self, items: Iterable[tuple[str, Any]]) -> None:
        """Set items; an item replaces an earlier one with its key."""
        rows = ((key, json.dumps(value)) for key, value in items)
        self._db.executemany("INSERT OR REPLACE INTO item VALUES (?, ?)", rows)
