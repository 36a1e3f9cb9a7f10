"""The rows of a truth file: for each image the cells that name its class. What they mean is not known here."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.labels.cell_table import CellTable
from imgclassify.sources import IMAGE_SUFFIXES

MAX_BYTES = 2**30
"""Larger files are rejected. ImageNet's 1.3 million training images take 80 MB."""

_SOURCE_COLUMNS = ("source", "file", "filename", "filepath", "image", "imagepath", "path")
_ID_COLUMNS = ("id", "imageid")
"""They name the images if no other column does. Beside another column they may count the rows."""
CLASS_COLUMNS = {
    "class": ("label", "wnid", "class_index"),
    "label": ("label",),
    "wnid": ("wnid",),
    "classindex": ("class_index",),
}
"""Column → what its cells may be."""
_PART_COLUMNS = ("split", "part")
_SEPARATORS = re.compile(r"[\s_-]+")
FORM = "the first line names the columns: source, and one or more of class, label, wnid and class_index"


class _Columns(NamedTuple):
    names: list[str]
    """As in the header."""
    source: int
    classes: dict[int, str]
    """Position → its name in CLASS_COLUMNS."""
    part: int | None
    """None if no column tells the part of a dataset."""


class TruthTable(NamedTuple):
    """The rows of a truth file. Cells that name a class are kept once for each combination."""

    columns: _Columns
    sources: list[str]
    lines: array[int]
    choices: array[int]
    """For each row the position of its cells in `cells`."""
    cells: list[tuple[str, ...]]
    """In the order of `columns.classes`."""
    first_lines: list[int]
    """For each of the cells the line where they come first."""
    parts: list[str]
    """For each row what a column called split or part says. Empty without one."""


def read_truth_table(file: str, hint: str) -> TruthTable:
    """Reads a truth file.

    Args:
        hint: what the file should look like, for errors.

    Raises:
        UsageError: it cannot be read, lacks a column, or a row lacks a cell.
    """
    table = CellTable(file, "truth file", hint, max_bytes=MAX_BYTES)
    rows = table.rows(lambda cells: _find_columns(table.name, cells) is not None)
    line, header = next(rows, (1, []))
    columns = _find_columns(table.name, header)
    if columns is None:
        raise _header_error(table.name, line, header)
    width = len(header)
    sources: list[str] = []
    lines, choices = array("l"), array("l")
    known: dict[tuple[str, ...], int] = {}
    first_lines: list[int] = []
    parts: list[str] = []
    for line, cells in rows:
        if len(cells) != width and (len(cells) < width or any(map(str.strip, cells[width:]))):
            raise UsageError(
                f"{table.name}: line {line} has {len(cells)} cells, and the header has {width}",
                hint="put cells with a comma in double quotes",
            )
        source = cells[columns.source].strip()
        chosen = tuple(cells[place].strip() for place in columns.classes)
        if not source or not any(chosen):
            lacking = (
                columns.names[columns.source]
                if not source
                else " or ".join(columns.names[place] for place in columns.classes)
            )
            raise UsageError(
                f"{table.name}: line {line} has no {lacking}", hint="fill the cell in, or remove the line"
            )
        choice = known.setdefault(chosen, len(known))
        if choice == len(first_lines):
            first_lines.append(line)
        sources.append(source)
        lines.append(line)
        choices.append(choice)
        if columns.part is not None:
            parts.append(cells[columns.part].strip())
    if not sources:
        raise UsageError(f"{table.name} has no rows below its header", hint=FORM)
    return TruthTable(columns, sources, lines, choices, list(known), first_lines, parts)


def _find_columns(file: str, header: Sequence[str]) -> _Columns | None:
    """Returns the columns that the header names. None if one is missing.

    Raises:
        UsageError: two columns are the source, or two have the same name.
    """
    names = [cell.strip() for cell in header]
    keys = [_SEPARATORS.sub("", name).casefold() for name in names]
    sources = [place for place, key in enumerate(keys) if key in _SOURCE_COLUMNS]
    sources = sources or [place for place, key in enumerate(keys) if key in _ID_COLUMNS]
    classes = {place: key for place, key in enumerate(keys) if key in CLASS_COLUMNS}
    if not sources or not classes:
        return None
    if keys.count("source") == 1:
        sources = [keys.index("source")]
    if len(sources) > 1:
        raise UsageError(
            f"{file}: {' and '.join(repr(names[place]) for place in sources)} may both be the column of the images",
            hint="rename the one that counts to source",
        )
    if len(set(classes.values())) < len(classes):
        raise UsageError(f"{file}: two columns have the same name: {', '.join(names)}", hint="rename one of them")
    part = next((place for place, key in enumerate(keys) if key in _PART_COLUMNS), None)
    return _Columns(names, sources[0], classes, part)


def _header_error(file: str, line: int, header: Sequence[str]) -> UsageError:
    if not header:
        return UsageError(f"the truth file {file!r} is empty", hint=FORM)
    if any(cell.strip().lower().endswith(tuple(IMAGE_SUFFIXES)) for cell in header):
        return UsageError(
            f"{file} has no header: line {line} is {','.join(header)!r:.80}",
            hint="put a header such as source,class into the first line",
        )
    keys = [_SEPARATORS.sub("", cell).casefold() for cell in header]
    lacks = [] if set(keys) & {*_SOURCE_COLUMNS, *_ID_COLUMNS} else ["the images (source)"]
    lacks += [] if set(keys) & CLASS_COLUMNS.keys() else ["the classes (class, label, wnid or class_index)"]
    found = ", ".join(repr(cell.strip()) for cell in header)
    return UsageError(
        f"{file} has no column for {' and for '.join(lacks)}: its columns are {found:.200}",
        hint=f"rename them: {FORM}",
    )


def first_cell(cells: Sequence[str]) -> str:
    return next(filter(None, cells))
