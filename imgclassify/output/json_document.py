"""json: one document with the run's provenance, streamed, and valid even when interrupted."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from imgclassify.output.json_lines import to_json
from imgclassify.results import SCHEMA, ImageResult, RunInfo


class JsonDocumentWriter:
    """See output.Writer. The document's shape is that of run.schema.json beside this file."""

    def __init__(self, stream: TextIO, run: RunInfo) -> None:
        self._stream = stream
        self._run = run
        self._separator = "\n"

    def __enter__(self) -> Self:
        self._stream.write(
            f'{{"schema": {to_json(SCHEMA)},\n "run": {to_json(self._run.to_dict())},\n "results": ['
        )
        return self

    def write(self, result: ImageResult) -> None:
        self._stream.write(self._separator + to_json(result.to_dict()))
        self._separator = ",\n"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.write("\n]}\n" if self._separator == ",\n" else "]}\n")
        self._stream.flush()
