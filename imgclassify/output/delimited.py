"""csv and tsv: a header, then one row an image, its predictions side by side."""

from __future__ import annotations

import csv
import io
from types import TracebackType
from typing import Self, TextIO

from imgclassify.results import ImageResult

_OF_PREDICTION = ("class_index", "wnid", "label", "probability")


class DelimitedWriter:
    """See output.Writer. Quoting is RFC 4180's, as Python's csv module writes and reads it."""

    def __init__(self, stream: TextIO, *, top_k: int, delimiter: str) -> None:
        self._stream = stream
        self._top_k = top_k
        self._line = io.StringIO()
        # The module quotes a carriage return only where one ends the lines.
        self._writer = csv.writer(self._line, delimiter=delimiter, lineterminator="\r\n")

    def __enter__(self) -> Self:
        ranked = [f"{name}_{rank}" for rank in range(1, self._top_k + 1) for name in _OF_PREDICTION]
        self._write_row(["source", "model", "width", "height", *ranked, "error_type", "error_message"])
        return self

    def write(self, result: ImageResult) -> None:
        row: list[object] = [result.source, result.model, result.width, result.height]
        for prediction in result.predictions:
            row += [getattr(prediction, name) for name in _OF_PREDICTION]
        row += [None] * (len(_OF_PREDICTION) * (self._top_k - len(result.predictions)))
        row += [result.error.type, result.error.message] if result.error else [None, None]
        self._write_row(row)
        self._stream.flush()

    def _write_row(self, row: list[object]) -> None:
        self._writer.writerow(row)
        self._stream.write(self._line.getvalue().removesuffix("\r\n") + "\n")
        self._line.seek(0)
        self._line.truncate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()
