"""Writes and reads sqlite: a table of images, a table of their predictions, and their run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic

from imgclassify.errors import UsageError
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Ranked, Record, RecordType, Scalar, Struct, Texts

_APPLICATION = 0x696D6763
"""SQLite's application_id of the files that this module writes: "imgc" in ASCII."""

_SIDE_FILES = ("-wal", "-journal")
"""Suffixes of the files that SQLite keeps beside a database while somebody is writing to it."""

_TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "flag": "INTEGER"}


class SqliteFileFormat(Generic[R]):
    """The sqlite FileFormat. The provenance is stored in the table `run`."""

    def __init__(self, record_type: RecordType[R]) -> None:
        self._record_type = record_type
        self._tables = {"run", "images", *(field.name for field in record_type.ranked)}

    def check_target(self, path: Path) -> None:
        for suffix in _SIDE_FILES:
            if path.with_name(path.name + suffix).exists():
                raise UsageError(
                    f"{str(path)!r} is being written to by another program: {path.name + suffix!r} exists",
                    hint="close the database in that program, or choose another --output",
                )
        if path.is_file() and path.stat().st_size and not self._is_ours(path):
            raise UsageError(
                f"{str(path)!r} is not a database of imgclassify, or has further tables, and would be replaced",
                hint="choose another --output",
            )

    def save(self, path: Path, provenance: Provenance, records: Iterable[R]) -> None:
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as database:
                # Nobody else reads the draft, and an unfinished one is deleted.
                database.execute("PRAGMA journal_mode = OFF")
                database.execute("PRAGMA synchronous = OFF")
                database.executescript(_create_tables(self._record_type))
                database.execute("BEGIN")
                database.execute("INSERT INTO run VALUES (?)", (json.dumps(provenance.to_dict()),))
                for number, record in enumerate(records, start=1):
                    self._insert(database, number, record)
                database.execute("COMMIT")
                database.executescript(_create_indexes(self._record_type))
        except sqlite3.OperationalError as error:
            raise OSError(str(error)) from error

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        with closing(_open_read_only(path)) as database:
            (provenance,) = database.execute("SELECT provenance FROM run").fetchone()
        return Provenance.from_dict(json.loads(provenance), self._record_type), self._read_records(path)

    def _insert(self, database: sqlite3.Connection, number: int, record: Record) -> None:
        values = record.to_dict()
        row: list[object] = [number]
        for field in self._record_type.fields:
            if isinstance(field, Scalar):
                row.append(_to_sql(values.get(field.name)))
            elif isinstance(field, Texts):
                texts = values.get(field.name)
                row.append(None if texts is None else json.dumps(texts, ensure_ascii=False))
            elif isinstance(field, Struct):
                struct = values.get(field.name)
                row += [struct[part.name] if struct else None for part in field.fields]
        database.execute(f"INSERT INTO images VALUES ({_marks(len(row))})", row)
        for ranked in self._record_type.ranked:
            names = ("rank", *(part.name for part in ranked.fields))
            rows = [(number, *(entry[name] for name in names)) for entry in values[ranked.name]]
            database.executemany(f"INSERT INTO {ranked.name} VALUES ({_marks(1 + len(names))})", rows)

    def _read_records(self, path: Path) -> Iterator[R]:
        with closing(_open_read_only(path)) as database:
            rows = database.execute("SELECT * FROM images ORDER BY id")
            fields = self._record_type.fields_in({name for name, *_ in rows.description})
            lists = {field.name: _RankedRows(database, field) for field in self._record_type.ranked}
            for number, *row in rows:
                cells = iter(row)
                record: dict[str, Any] = {}
                for field in fields:
                    if isinstance(field, Scalar):
                        value = _from_sql(next(cells))
                        record[field.name] = bool(value) if field.kind == "flag" else value
                    elif isinstance(field, Texts):
                        text = next(cells)
                        record[field.name] = None if text is None else json.loads(text)
                    elif isinstance(field, Struct):
                        parts = {part.name: next(cells) for part in field.fields}
                        record[field.name] = None if parts[field.fields[0].name] is None else parts
                    else:
                        record[field.name] = lists[field.name].of_image(number)
                yield self._record_type.from_dict(record)

    def _is_ours(self, path: Path) -> bool:
        try:
            with closing(_open_read_only(path)) as database:
                (application,) = database.execute("PRAGMA application_id").fetchone()
                names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
                return application == _APPLICATION and {name for (name,) in names} == self._tables
        except sqlite3.Error:
            return False


class _RankedRows:
    """Reads the rows of a ranked field's table, image by image."""

    def __init__(self, database: sqlite3.Connection, field: Ranked) -> None:
        self._names = ["rank", *(part.name for part in field.fields)]
        rows = database.execute(f"SELECT * FROM {field.name} ORDER BY image_id, rank")
        self._groups = groupby(rows, key=itemgetter(0))
        self._next = self._take_group()

    def of_image(self, number: int) -> list[dict[str, Any]]:
        """Returns the rows of one image. Call it with ascending numbers."""
        image, entries = self._next
        if image != number:
            return []
        self._next = self._take_group()
        return entries

    def _take_group(self) -> tuple[int | None, list[dict[str, Any]]]:
        image, rows = next(self._groups, (None, []))
        return image, [dict(zip(self._names, row[1:], strict=True)) for row in rows]


def _create_tables(record_type: RecordType[Any]) -> str:
    columns: list[Scalar] = []
    for field in record_type.fields:
        if isinstance(field, Scalar):
            columns.append(field)
        elif isinstance(field, Texts):
            columns.append(Scalar(field.name, "text", nullable=True, comment="a JSON list"))
        elif isinstance(field, Struct):
            columns += [part._replace(name=f"{field.name}_{part.name}") for part in field.fields]
    *lines, last = map(_column_line, columns)  # the last column must have no comma after it
    script = f"""
PRAGMA application_id = {_APPLICATION};
CREATE TABLE run (provenance TEXT NOT NULL); -- JSON
CREATE TABLE images (
    id INTEGER PRIMARY KEY, -- in input order, from 1
{"".join(lines)}{last.replace(",", "", 1)});
"""
    for ranked in record_type.ranked:
        script += f"""CREATE TABLE {ranked.name} (
    image_id INTEGER NOT NULL REFERENCES images (id),
    rank INTEGER NOT NULL, -- 1 is the most probable
{"".join(map(_column_line, ranked.fields))}    PRIMARY KEY (image_id, rank)
) WITHOUT ROWID;
"""
    return script


def _column_line(column: Scalar) -> str:
    words = f"{_quote(column.name)} {_TYPES[column.kind]}" + ("" if column.nullable else " NOT NULL")
    return f"    {words},{' -- ' + column.comment if column.comment else ''}\n"


def _quote(name: str) -> str:
    return f'"{name}"' if name == "set" else name  # a keyword of SQL


def _create_indexes(record_type: RecordType[Any]) -> str:
    """Returns SQL for indexes on source, error type, and each text of a ranked table with its real numbers."""
    script = "\nCREATE INDEX images_source ON images (source);\n"
    script += "CREATE INDEX images_error_type ON images (error_type) WHERE error_type IS NOT NULL;\n"
    for ranked in record_type.ranked:
        numbers = "".join(f", {part.name}" for part in ranked.fields if part.kind == "real")
        for name in sorted(part.name for part in ranked.fields if part.kind == "text"):
            script += f"CREATE INDEX {ranked.name}_{name} ON {ranked.name} ({name}{numbers});\n"
    return script


def _open_read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _to_sql(value: object) -> object:
    """Turns text that is not valid UTF-8 into its bytes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogateescape")
    return value


def _from_sql(value: object) -> object:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
