"""Looks up which sources already have records, over any number of stopped runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from threading import Lock

from imgclassify.errors import UsageError
from imgclassify.output.journal import ResumeMarker
from imgclassify.output.records import Record

_TABLE = """
CREATE TABLE slot (
    id INTEGER PRIMARY KEY,
    source BLOB NOT NULL,
    position INTEGER NOT NULL, -- of the latest record
    failed INTEGER NOT NULL,
    again INTEGER NOT NULL DEFAULT 0, -- whether the next record of that source replaces this one
    named INTEGER NOT NULL DEFAULT 0 -- whether the current run has claimed it
);
CREATE INDEX of_source ON slot (source, again, named);
"""

_FIRST = "WHERE id = (SELECT id FROM slot WHERE source = ? AND {} ORDER BY id LIMIT 1)"
_TAKE = f"UPDATE slot SET named = 1 {_FIRST.format('again = 0 AND named = 0')}"
_REPLACE = f"UPDATE slot SET position = ?, failed = ?, again = 0 {_FIRST.format('again = 1')}"


class ResumeIndex:
    """Has one slot per record, in order.

    The names of the sources are in a temporary database on disk. It takes only a few MiB of memory.
    """

    def __init__(self, entries: Iterable[tuple[int, Record | ResumeMarker]]) -> None:
        # SQLite creates a private temporary database for an empty name, and deletes it when it is closed.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._turn = Lock()
        self._retrying = False
        self.replaces = False
        """Whether a record may have replaced another."""
        for statement in (*_TABLE.split(";"), "BEGIN"):
            self._execute(statement)
        for position, entry in entries:
            self.add(position, entry)

    def add(self, position: int, entry: Record | ResumeMarker) -> None:
        """Adds the next record or mark.

        Args:
            position: any integer. `positions` yields it again.
        """
        if isinstance(entry, ResumeMarker):
            self._retrying = entry.retries
            self.replaces |= entry.retries
            self._execute("UPDATE slot SET again = failed" if entry.retries else "UPDATE slot SET again = 0")
            return
        values = (position, entry.error is not None, _key(entry.source))
        if not (self._retrying and self._execute(_REPLACE, *values).rowcount):
            self._execute("INSERT INTO slot (position, failed, source) VALUES (?, ?, ?)", *values)

    def count(self, *, failed: bool = False, settled: bool = False) -> int:
        """Returns the number of slots.

        Args:
            failed: count only slots whose record has an error.
            settled: count only slots whose record no retry will replace.
        """
        conditions = ["1", *(["failed"] if failed else []), *(["NOT again"] if settled else [])]
        (count,) = self._execute(f"SELECT count(*) FROM slot WHERE {' AND '.join(conditions)}").fetchone()
        return int(count)

    def claim(self, source: str) -> bool:
        """Marks one record of `source` as used and returns True.

        Returns False once as many have been used as there are, so a source named twice is classified twice.
        """
        return bool(self._execute(_TAKE, _key(source)).rowcount)

    def positions(self) -> Iterator[int]:
        """Yields the position of the latest record of each slot."""
        return (position for (position,) in self._execute("SELECT position FROM slot ORDER BY id"))

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        try:
            with self._turn:
                return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise UsageError(
                f"cannot store the names of the finished sources in the folder for temporary files: {error}",
                hint="free some space there, or name another folder in the environment variable SQLITE_TMPDIR",
            ) from error


def _key(source: str) -> bytes:
    return source.encode(errors="surrogatepass")
