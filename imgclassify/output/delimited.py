"""csv and tsv: a header, then one row an image, its predictions side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.results import ImageResult

DELIMITERS = {"csv": ",", "tsv": "\t"}
_LONGEST_FIELD = 2**31 - 1
"""A URL may be longer than the csv module's own limit."""
PREDICTION_FIELDS = ("class_index", "wnid", "label", "probability")


def read_delimited(stream: TextIO, delimiter: str) -> Iterator[ImageResult]:
    """What a DelimitedWriter wrote.

    Raises:
        ValueError: it is something else.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    rows = csv.DictReader(_whole_lines(stream), delimiter=delimiter, strict=True)
    try:
        columns = list(rows.fieldnames or ())
        if columns != _columns(sum(name.startswith("label_") for name in columns)):
            raise ValueError("its columns are not those that imgclassify writes")
        for row in rows:
            if None in row or None in row.values():
                raise ValueError("it has too few fields, or too many")
            yield ImageResult.from_dict(_record(row))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the record that ends in line {rows.line_num} is damaged: {error}") from error


def _columns(top_k: int) -> list[str]:
    ranked = [f"{name}_{rank}" for rank in range(1, top_k + 1) for name in PREDICTION_FIELDS]
    return ["source", "model", "width", "height", *ranked, "error_type", "error_message"]


def _whole_lines(stream: TextIO) -> Iterator[str]:
    line = "\n"
    for line in stream:
        yield line
    if not line.endswith("\n"):
        raise ValueError("the file ends within it")


def _record(row: dict[str, str]) -> dict[str, Any]:
    """As ImageResult.to_dict gives it."""
    failed = bool(row["error_type"])
    ranks = range(1, sum(name.startswith("label_") for name in row) + 1)
    return {
        "source": row["source"],
        "model": row["model"],
        "width": None if failed else int(row["width"]),
        "height": None if failed else int(row["height"]),
        "predictions": [_prediction(row, rank) for rank in ranks if row[f"class_index_{rank}"]],
        "error": {"type": row["error_type"], "message": row["error_message"]} if failed else None,
    }


def _prediction(row: dict[str, str], rank: int) -> dict[str, Any]:
    index, wnid, label, probability = (row[f"{name}_{rank}"] for name in PREDICTION_FIELDS)
    return {
        "rank": rank,
        "class_index": int(index),
        "wnid": wnid or None,
        "label": label,
        "probability": float(probability),
    }


class DelimitedWriter:
    """See output.Writer. Quoting is RFC 4180's, as Python's csv module writes and reads it."""

    def __init__(self, stream: TextIO, *, top_k: int, delimiter: str) -> None:
        self._stream = stream
        self._top_k = top_k
        self._line = io.StringIO()
        # The module quotes a carriage return only where one ends the lines.
        self._writer = csv.writer(self._line, delimiter=delimiter, lineterminator="\r\n")

    def __enter__(self) -> Self:
        self._write_row(_columns(self._top_k))
        return self

    def write(self, result: ImageResult) -> None:
        row: list[object] = [result.source, result.model, result.width, result.height]
        for prediction in result.predictions:
            row += [getattr(prediction, name) for name in PREDICTION_FIELDS]
        row += [None] * (len(PREDICTION_FIELDS) * (self._top_k - len(result.predictions)))
        row += [result.error.type, result.error.message] if result.error else [None, None]
        self._write_row(row)
        self._stream.flush()

    def _write_row(self, row: Sequence[object]) -> None:
        self._writer.writerow(row)
        self._stream.write(self._line.getvalue().removesuffix("\r\n") + "\n")
        self._line.seek(0)
        self._line.truncate()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()
