"""sqlite: a table of images, one of their predictions, and the run they are of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from imgclassify.errors import UsageError
from imgclassify.output.provenance import Provenance
from imgclassify.results import ImageResult

_APPLICATION = 0x696D6763
"""What SQLite's application_id is in our files: "imgc"."""

_TABLES = f"""
PRAGMA application_id = {_APPLICATION};
CREATE TABLE run (provenance TEXT NOT NULL); -- JSON
CREATE TABLE images (
    id INTEGER PRIMARY KEY, -- in input order, from 1 on
    source TEXT NOT NULL, -- a BLOB of the name's bytes where they are not UTF-8
    model TEXT NOT NULL,
    width INTEGER, -- pixels of the upright image
    height INTEGER,
    error_type TEXT, -- NULL where it was answered
    error_message TEXT
);
CREATE TABLE predictions (
    image_id INTEGER NOT NULL REFERENCES images (id),
    rank INTEGER NOT NULL, -- 1 is the most probable
    class_index INTEGER NOT NULL,
    wnid TEXT,
    label TEXT NOT NULL,
    probability REAL NOT NULL,
    PRIMARY KEY (image_id, rank)
) WITHOUT ROWID;
"""
_INDEXES = """
CREATE INDEX images_source ON images (source);
CREATE INDEX images_error_type ON images (error_type) WHERE error_type IS NOT NULL;
CREATE INDEX predictions_label ON predictions (label, probability);
CREATE INDEX predictions_wnid ON predictions (wnid, probability);
"""
_OF_PREDICTION = ("rank", "class_index", "wnid", "label", "probability")
_SELECT = f"""
SELECT id, source, model, width, height, error_type, error_message, {", ".join(_OF_PREDICTION)}
FROM images LEFT JOIN predictions ON image_id = id ORDER BY id, rank
"""
_SIDE_FILES = ("-wal", "-journal")
"""What SQLite has beside a database that someone is writing to."""


class SqliteFileFormat:
    """See forms.Form."""

    def check(self, path: Path) -> None:
        for suffix in _SIDE_FILES:
            if path.with_name(path.name + suffix).exists():
                raise UsageError(
                    f"{str(path)!r} is being written to by another program: {path.name + suffix!r} lies beside it",
                    hint="close it there, or choose another --output",
                )
        if path.is_file() and path.stat().st_size and not _is_ours(path):
            raise UsageError(
                f"{str(path)!r} is a database of something else, or has further tables, and would be replaced",
                hint="choose another --output",
            )

    def invalidate_sidecar(self, path: Path) -> None:
        self.check(path)

    def save(self, path: Path, provenance: Provenance, results: Iterable[ImageResult]) -> None:
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                # Nobody reads a draft, and one that is not finished is thrown away.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                database.executescript(_TABLES)
                database.execute("BEGIN")
                database.execute("INSERT INTO run VALUES (?)", (json.dumps(provenance.to_dict()),))
                for number, result in enumerate(results, start=1):
                    _insert(database, number, result)
                database.execute("COMMIT")
                database.executescript(_INDEXES)
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from error

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[ImageResult]]:
        with closing(_opened(path)) as database:
            (provenance,) = database.execute("SELECT provenance FROM run").fetchone()
        return Provenance.from_dict(json.loads(provenance)), _results(path)


def _insert(database: sqlite3.Connection, number: int, result: ImageResult) -> None:
    error = (result.error.type, result.error.message) if result.error else (None, None)
    values = (number, _text(result.source), _text(result.model), result.width, result.height, *error)
    database.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    database.executemany(
        "INSERT INTO predictions VALUES (?, ?, ?, ?, ?, ?)",
        ((number, *(getattr(each, name) for name in _OF_PREDICTION)) for each in result.predictions),
    )


def _results(path: Path) -> Iterator[ImageResult]:
    with closing(_opened(path)) as database:
        for _, rows in groupby(database.execute(_SELECT), key=lambda row: row[0]):
            yield ImageResult.from_dict(_record(list(rows)))


def _record(rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """As ImageResult.to_dict gives it, of the rows that join an image with its predictions."""
    _, source, model, width, height, error_type, message, *_ = rows[0]
    predictions = [dict(zip(_OF_PREDICTION, row[-len(_OF_PREDICTION) :], strict=True)) for row in rows]
    return {
        "source": _name(source),
        "model": _name(model),
        "width": width,
        "height": height,
        "predictions": [] if error_type else predictions,
        "error": {"type": error_type, "message": message} if error_type else None,
    }


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _is_ours(path: Path) -> bool:
    try:
        with closing(_opened(path)) as database:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            return application == _APPLICATION and tables == {"run", "images", "predictions"}
    except sqlite3.Error:
        return False


def _text(name: str) -> str | bytes:
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape")
    return name


def _name(value: str | bytes) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
