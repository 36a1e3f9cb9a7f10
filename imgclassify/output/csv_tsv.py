"""Writes and reads csv and tsv: a header, then one row per image, with its predictions side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self, TextIO

from imgclassify.output.delimited import BYTE_ORDER_MARK, RowWriter, read_rows
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Ranked, Record, RecordType, Scalar, Struct, Texts
from imgclassify.output.rows import column_names, row_values

_PARSERS: dict[str, Callable[[str], object]] = {
    "text": str,
    "integer": int,
    "real": float,
    "flag": {"True": True}.__getitem__,
}


def read_csv(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records that a CsvWriter wrote. Raises ValueError for any other text."""
    return _read_delimited(stream, record_type, CsvWriter.delimiter)


def read_tsv(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records that a TsvWriter wrote. Raises ValueError for any other text."""
    return _read_delimited(stream, record_type, TsvWriter.delimiter)


class CsvWriter:
    """Writes csv; see formats.Writer. Quoting follows RFC 4180, as Python's csv module writes and reads it."""

    delimiter: ClassVar[str] = ","

    def __init__(self, stream: TextIO, provenance: Provenance, record_type: RecordType[Any]) -> None:
        self._stream = stream
        self._record_type = record_type
        self._lengths = {name: each for name, each in provenance.settings.items() if isinstance(each, int)}
        self._rows = RowWriter(stream, self.delimiter)

    def __enter__(self) -> Self:
        self._rows.write_row(column_names(self._record_type.fields, self._lengths))
        return self

    def write(self, record: Record) -> None:
        values = row_values(record, self._record_type, self._lengths)
        self._rows.write_row(
            [json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in values]
        )
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()


class TsvWriter(CsvWriter):
    """Like CsvWriter, but separates the fields with tabs."""

    delimiter = "\t"


class CsvBomWriter(CsvWriter):
    """Like CsvWriter, but begins with a byte order mark. Without it, Excel does not read the file as UTF-8."""

    def __enter__(self) -> Self:
        self._stream.write(BYTE_ORDER_MARK)
        return super().__enter__()


class TsvBomWriter(CsvBomWriter, TsvWriter):
    """Like TsvWriter, but begins with a byte order mark."""


def _read_delimited(stream: TextIO, record_type: RecordType[R], delimiter: str) -> Iterator[R]:
    rows = read_rows(stream, delimiter)
    try:
        columns = list(rows.fieldnames or ())
        lengths = {field.length: _count_ranks(field, columns) for field in record_type.ranked}
        fields = record_type.fields_in(columns)
        if columns != column_names(fields, lengths):
            raise ValueError("the columns are not those that imgclassify writes")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("it has too few or too many fields")
            yield record_type.from_dict({field.name: _parse_field(field, row) for field in fields})
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the record that ends on line {rows.line_num} is damaged: {error}") from error


def _count_ranks(field: Ranked, columns: Sequence[str]) -> int:
    return sum(name.startswith(f"{field.fields[0].name}_") for name in columns)


def _parse_field(field: Any, row: dict[str, str]) -> Any:
    if isinstance(field, Scalar):
        return _parse_scalar(field, row[field.name])
    if isinstance(field, Texts):
        return json.loads(row[field.name]) if row[field.name] else None
    if isinstance(field, Struct):
        texts = {part: row[f"{field.name}_{part.name}"] for part in field.fields}
        if not texts[field.fields[0]]:
            return None
        # An empty text stays one: the message of an error may be empty.
        return {
            part.name: text if part.kind == "text" else _parse_scalar(part, text) for part, text in texts.items()
        }
    entries = []
    for rank in range(1, _count_ranks(field, list(row)) + 1):
        texts = {part: row[f"{part.name}_{rank}"] for part in field.fields}
        if texts[field.fields[0]]:
            entries.append({"rank": rank} | {part.name: _parse_scalar(part, text) for part, text in texts.items()})
    return entries


def _parse_scalar(field: Scalar, text: str) -> object:
    if not text and field.nullable:
        return None
    return _PARSERS[field.kind](text)
