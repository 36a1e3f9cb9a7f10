"""Writes and reads json: one document with the run's provenance, valid even if the run is interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.output.json_lines import to_json
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Record, RecordType


def read_json_document(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records of a document. The whole document is in memory.

    Raises:
        ValueError: the text is not a document of such records.
    """
    try:
        document = json.load(stream)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(document, dict) or document.get("schema") != record_type.schema:
        raise ValueError(f"its schema is not {record_type.schema}")
    records = document.get("results")
    if not isinstance(records, list):
        raise ValueError("it has no list of results")
    for number, record in enumerate(records, start=1):
        try:
            yield record_type.from_dict(record)
        except ValueError as error:
            raise ValueError(f"its record {number} is damaged: {error}") from error


class JsonDocumentWriter:
    """Writes a JSON document; see formats.Writer. run.schema.json describes a document of predictions."""

    def __init__(self, stream: TextIO, provenance: Provenance, record_type: RecordType[Any]) -> None:
        self._stream = stream
        self._head = (
            f'{{"schema": {to_json(record_type.schema)},\n "run": {to_json(provenance.run)},\n "results": ['
        )
        self._separator = "\n"

    def __enter__(self) -> Self:
        self._stream.write(self._head)
        return self

    def write(self, record: Record) -> None:
        self._stream.write(self._separator + to_json(record.to_dict()))
        self._separator = ",\n"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.write("\n]}\n" if self._separator == ",\n" else "]}\n")
        self._stream.flush()
