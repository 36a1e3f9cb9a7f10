"""Reads CSV and TSV with a header, and with more than two columns also without one."""

from __future__ import annotations

import csv
import io
from itertools import islice

from imgclassify.errors import LabelsError
from imgclassify.labels.columns import (
    Columns,
    column_of,
    counted_from_one,
    find_columns,
    find_start,
    find_unnamed_columns,
    is_number,
)
from imgclassify.labels.rows import FORMS_HINT, MAX_CLASSES, NEWLINE, Rows, require_bounded

MAX_COLUMNS = 1000
"""Files with a header of more columns are rejected."""
_MAX_CELLS = 2**20
"""Files with more cells and without a known header are not examined for columns."""
_DELIMITERS = "\t,;"

_Line = tuple[str, list[str]]
"""The location of a line in the file, and its cells."""


def header_delimiter(first_line: str) -> str | None:
    """Returns the delimiter of the column names in `first_line`, or None if it has no known column name.

    A single name is a header only if it is one of the label's.
    """
    for delimiter in _DELIMITERS:
        cells = first_line.split(delimiter, MAX_COLUMNS)
        columns = [column_of(cell.strip().strip('"')) for cell in cells[:MAX_COLUMNS]]
        if len(cells) > MAX_COLUMNS and any(columns):
            raise LabelsError(f"line 1 has more than {MAX_COLUMNS:,} columns", hint=FORMS_HINT)
        if columns == ["label"] or (len(columns) > 1 and any(columns)):
            return delimiter
    return None


def read_named_table(text: str, delimiter: str) -> Rows:
    """Reads a table whose header has a known name.

    Raises:
        LabelsError: it is not a table, or its columns are unclear.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        lines = [(f"line {reader.line_num}", cells) for cells in islice(reader, MAX_CLASSES + 2)]
    except csv.Error as error:
        raise LabelsError(f"line {reader.line_num}: {error}", hint=FORMS_HINT) from error
    # Blank lines at the end are dropped, but a line of empty cells is a class with an empty label.
    while not "".join(lines[-1][1]).strip() and len(lines[-1][1]) < 2:
        lines.pop()
    (location, names), *lines = lines
    require_bounded(len(lines))
    for place, cells in lines:
        if not "".join(cells).strip() and len(cells) < 2:
            raise LabelsError(f"{place} is blank", hint="remove blank lines: every line must describe a class")
        if len(cells) != len(names):
            raise LabelsError(
                f"{place} has {len(cells)} columns, the header has {len(names)}",
                hint=f'put a value that contains {delimiter!r} in double quotes: "tench, Tinca tinca"',
            )
    if not lines:
        raise LabelsError("there are no classes in it", hint=FORMS_HINT)
    return _pick(find_columns(names, [cells for _, cells in lines], location), lines)


def read_other_table(text: str) -> Rows | None:
    """Reads a table with a numbering, whose header has no known name, or that has no header and over two columns.

    A first line is a header if below it a column numbers the lines, and if it has no number itself. Two columns
    without a header are left to `imgclassify.labels.lines`, because a label may contain the delimiter.

    Returns:
        None if the text is no such table.

    Raises:
        LabelsError: its columns are unclear.
    """
    for delimiter in _DELIMITERS:
        lines = _split(text, delimiter)
        if lines is None:
            continue
        cells = [cells for _, cells in lines]
        names, *below = cells
        if len(below) > 1 and not any(map(is_number, names)) and _has_numbering(below):
            return _pick(find_columns(names, below, "line 1"), lines[1:])
        if len(names) > 2 and len(cells) > 1:
            if columns := find_unnamed_columns(cells):
                if columns.first_index == 1:
                    raise counted_from_one(len(cells))
                return _pick(columns, lines)
            if _has_numbering([row[1:-1] for row in cells]):
                raise LabelsError(
                    f"line 1: it is unclear which of {len(names)} columns is the label",
                    hint="name the columns with a header such as label,index,other in line 1",
                )
    return None


def _split(text: str, delimiter: str) -> list[_Line] | None:
    """Returns the cells of each line, or None unless all lines have the same number of cells, at least two."""
    width = NEWLINE.split(text, maxsplit=1)[0].count(delimiter) + 1
    if not 1 < width <= MAX_COLUMNS:
        return None
    reader = csv.reader(
        io.StringIO(text.rstrip(), newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    lines: list[_Line] = []
    try:
        for cells in reader:
            width = len(lines[0][1]) if lines else len(cells)
            if len(cells) != width or width < 2 or (len(lines) + 1) * width > _MAX_CELLS:
                return None
            lines.append((f"line {reader.line_num}", [cell.strip() for cell in cells]))
    except csv.Error:
        return None
    return lines if len(lines) <= MAX_CLASSES else None


def _has_numbering(rows: list[list[str]]) -> bool:
    columns = (column for column in zip(*rows, strict=True) if all(map(is_number, column)))
    return any(find_start([int(cell) for cell in column]) is not None for column in columns)


def _pick(columns: Columns, lines: list[_Line]) -> Rows:
    return Rows([(location, columns.pick(cells)) for location, cells in lines], columns.note)
