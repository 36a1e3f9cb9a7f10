"""The file split.tsv of a model folder: which images it was trained on, which it was measured on, and which not."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from imgclassify.errors import UsageError, describe_error, short_repr
from imgclassify.files import atomic_write
from imgclassify.output.delimited import RowWriter, read_rows
from imgclassify.output.file_formats import open_text_file
from imgclassify.training.layout import TRAIN, VAL

LEFT_OUT = "left out"
PARTS = (TRAIN, VAL, LEFT_OUT)
_DELIMITER = "\t"
_SHA256 = re.compile(r"(?:[0-9a-f]{64})?")
_HINT = "it is written by `imgclassify train`; put it back as it was, or train again into another folder"


class SplitRow(NamedTuple):
    """What became of an image."""

    source: str
    """The name of its source."""
    label: str
    """Its class."""
    part: str
    """One of PARTS."""
    sha256: str
    """Of its file, in hexadecimal. Empty if it could not be read."""
    reason: str
    """Why it is left out. Otherwise empty."""


def write_split(path: Path, rows: Iterable[SplitRow]) -> None:
    """Writes the file at once. Raises OSError if it cannot be written."""
    with atomic_write(path) as draft, open_text_file(draft, "w") as stream:
        writer = RowWriter(stream, _DELIMITER)
        writer.write_row(SplitRow._fields)
        for row in rows:
            writer.write_row(row)


def read_split(path: Path) -> list[SplitRow]:
    """Returns the rows of the file.

    Raises:
        UsageError: the file cannot be read, or it is not as `write_split` wrote it.
    """
    try:
        with open_text_file(path, "r") as stream:
            return list(_parse(read_rows(stream, _DELIMITER), path))
    except OSError as error:
        raise UsageError(f"cannot read the split {str(path)!r}: {describe_error(error)}", hint=_HINT) from error


def _parse(rows: csv.DictReader[str], path: Path) -> Iterator[SplitRow]:
    first_lines: dict[str, int] = {}
    try:
        if tuple(rows.fieldnames or ()) != SplitRow._fields:
            raise ValueError(f"the columns are not {', '.join(SplitRow._fields)}")
        for cells in rows:
            if None in cells or None in cells.values():
                raise ValueError(f"it does not have {len(SplitRow._fields)} cells")
            row = SplitRow(**cells)
            if row.part not in PARTS:
                raise ValueError(f"the part is {short_repr(row.part)}, not one of {', '.join(PARTS)}")
            if not _SHA256.fullmatch(row.sha256):
                raise ValueError(f"the SHA-256 is {short_repr(row.sha256)}")
            first = first_lines.setdefault(row.source, rows.line_num)
            if first != rows.line_num:
                raise ValueError(f"{short_repr(row.source)} is there twice, in line {first} too")
            yield row
    except (csv.Error, ValueError) as error:
        line = max(rows.reader.line_num, 1)
        raise UsageError(f"the split {str(path)!r} is damaged: line {line}: {error}", hint=_HINT) from error
