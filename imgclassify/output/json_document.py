"""Writes json: one document with the run's provenance, streamed, and valid even if the run is interrupted."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.output.json_lines import to_json
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import Record, RecordType


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
