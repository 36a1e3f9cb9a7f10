"""Looks up which sources already have records, over any number of stopped runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from threading import Lock

from imgclassify.errors import UsageError
from imgclassify.output.journal import ResumeMarker
from imgclassify.output.records import Record

_TABLE = """
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    source BLOB NOT NULL,
    position INTEGER NOT NULL, -- of the latest record
    failed INTEGER NOT NULL,
    replaceable INTEGER NOT NULL DEFAULT 0, -- whether the next record of that source replaces this one
    claimed INTEGER NOT NULL DEFAULT 0 -- whether the current run has claimed it
);
CREATE INDEX of_source ON entry (source, replaceable, claimed);
"""

_FIRST = "WHERE id = (SELECT id FROM entry WHERE source = ? AND {} ORDER BY id LIMIT 1)"
_CLAIM = f"UPDATE entry SET claimed = 1 {_FIRST.format('replaceable = 0 AND claimed = 0')}"
_REPLACE = f"UPDATE entry SET position = ?, failed = ?, replaceable = 0 {_FIRST.format('replaceable = 1')}"


class ResumeIndex:
    """Has one entry per record, in order.

    The names of the sources are in a temporary database on disk. It takes only a few MiB of memory.
    """

    def __init__(self, lines: Iterable[tuple[int, Record | ResumeMarker]]) -> None:
        # SQLite creates a private temporary database for an empty name, and deletes it when it is closed.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._turn = Lock()
        self._retrying = False
        self.replaces = False
        """Whether a record may have replaced another."""
        for statement in (*_TABLE.split(";"), "BEGIN"):
            self._execute(statement)
        for position, line in lines:
            self.add(position, line)

    def add(self, position: int, line: Record | ResumeMarker) -> None:
        """Adds the next record or marker of a journal.

        Args:
            position: any integer. `positions` yields it again.
        """
        if isinstance(line, ResumeMarker):
            self._retrying = line.retries
            self.replaces |= line.retries
            self._execute(
                "UPDATE entry SET replaceable = failed" if line.retries else "UPDATE entry SET replaceable = 0"
            )
            return
        values = (position, line.error is not None, _key(line.source))
        if not (self._retrying and self._execute(_REPLACE, *values).rowcount):
            self._execute("INSERT INTO entry (position, failed, source) VALUES (?, ?, ?)", *values)

    def count(self, *, failed: bool = False, settled: bool = False) -> int:
        """Returns the number of entries.

        Args:
            failed: count only entries whose record has an error.
            settled: count only entries whose record no retry will replace.
        """
        conditions = ["1", *(["failed"] if failed else []), *(["NOT replaceable"] if settled else [])]
        (count,) = self._execute(f"SELECT count(*) FROM entry WHERE {' AND '.join(conditions)}").fetchone()
        return int(count)

    def claim(self, source: str) -> bool:
        """Marks one record of `source` as used and returns True.

        Returns False once as many have been used as there are, so a source named twice is classified twice.
        """
        return bool(self._execute(_CLAIM, _key(source)).rowcount)

    def sources(self) -> Iterator[str]:
        """Yields the source of each entry."""
        found = self._execute("SELECT source FROM entry ORDER BY id")
        return (source.decode(errors="surrogatepass") for (source,) in found)

    def positions(self) -> Iterator[int]:
        """Yields the position of the latest record of each entry."""
        return (position for (position,) in self._execute("SELECT position FROM entry ORDER BY id"))

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
