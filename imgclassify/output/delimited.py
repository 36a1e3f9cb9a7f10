"""Writes and reads rows of text in columns. Quoting follows RFC 4180, as Python's csv module writes and reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import TextIO

BYTE_ORDER_MARK = "\ufeff"
_LONGEST_FIELD = 2**31 - 1
"""Limit for csv.field_size_limit. A URL may be longer than the csv module's default limit."""


class RowWriter:
    """Writes rows. What a field has of the delimiter, quotes and ends of lines is kept."""

    def __init__(self, stream: TextIO, delimiter: str) -> None:
        self._stream = stream
        self._line = io.StringIO()
        # With the terminator "\r\n", csv quotes fields that contain a carriage return. With "\n", Python 3.11
        # does not, so a carriage return would end the line when it is read. write_row writes "\n" in its place.
        self._writer = csv.writer(self._line, delimiter=delimiter, lineterminator="\r\n")

    def write_row(self, row: Sequence[object]) -> None:
        self._writer.writerow(row)
        self._stream.write(self._line.getvalue().removesuffix("\r\n") + "\n")
        self._line.seek(0)
        self._line.truncate()


def read_rows(stream: TextIO, delimiter: str) -> csv.DictReader[str]:
    """Returns the rows below the header, as dictionaries. Iterating raises csv.Error for what is not CSV.

    A last line without a line feed, which was cut off, raises ValueError.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    return csv.DictReader(_whole_lines(stream), delimiter=delimiter, strict=True)


def _whole_lines(stream: TextIO) -> Iterator[str]:
    # A last line without a line feed was cut off, even if it has all its fields.
    line = "\n"
    for number, line in enumerate(stream):
        yield line if number else line.removeprefix(BYTE_ORDER_MARK)
    if not line.endswith("\n"):
        raise ValueError("the file ends within it")
