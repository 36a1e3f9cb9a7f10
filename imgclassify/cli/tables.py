"""Tables for the listing commands: aligned columns, in colour on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from rich.cells import cell_len

from imgclassify.errors import make_printable
from imgclassify.output.terminal import Line, LinePrinter
from imgclassify.output.text_fitting import wrap_text

Cell = str | tuple[str, str]
"""Text, or (text, rich style)."""

_GAP = "  "
_NARROWEST = 10
"""To how many cells a column is narrowed at most, so that its words are not broken into single letters."""


def print_table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    right: Iterable[int] = (),
    optional: Sequence[int] = (),
    wrapped: Sequence[int] = (),
    below: Sequence[int] = (),
) -> None:
    """Prints rows under a dim header. Elsewhere than on a terminal, each row is one line and whole.

    On a terminal that is too narrow, columns are left out or wrapped, as the arguments say. Then lines are cut at
    its width.

    Args:
        head: the titles of the columns. If empty, there is no header.
        right: indices of the columns that are aligned to the right.
        optional: indices of the columns that may be left out, the first one first.
        wrapped: indices of the columns whose cells may take several lines.
        below: indices of columns that a terminal shows below their row, with their titles, on lines of their own.
    """
    body = [[_split_cell(cell) for cell in row] for row in rows]
    titles = [(title, "dim") for title in head]
    everything = [titles, *body] if head else body
    widths = [max(cell_len(text) for text, _ in column) for column in zip(*everything, strict=True)]
    columns = list(range(len(widths)))
    printer = LinePrinter(sys.stdout)
    if printer.width is not None:
        columns = [column for column in columns if column not in below]
        for column in optional:
            if _total_width(widths, columns) > printer.width:
                columns.remove(column)
        _narrow_columns(widths, columns, [column for column in wrapped if column in columns], printer.width)
    to_the_right = set(right)
    for row in everything:
        for line in _row_lines(row, columns, widths, to_the_right):
            printer.print(line, cut=True)
        if printer.width is not None and row is not titles:
            _print_below(printer, {head[column]: row[column][0] for column in below}, widths[0], printer.width)


def _split_cell(cell: Cell) -> tuple[str, str]:
    text, style = (cell, "") if isinstance(cell, str) else cell
    return make_printable(text), style


def _total_width(widths: Sequence[int], columns: Sequence[int]) -> int:
    return sum(widths[column] for column in columns) + len(_GAP) * (len(columns) - 1)


def _narrow_columns(widths: list[int], columns: Sequence[int], wrapped: Sequence[int], limit: int) -> None:
    """Narrows the widest of the wrapped columns again and again, until the table fits into `limit` cells."""
    while _total_width(widths, columns) > limit:
        widest = max(wrapped, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1


def _row_lines(
    row: Sequence[tuple[str, str]], columns: Sequence[int], widths: Sequence[int], to_the_right: set[int]
) -> Iterable[Line]:
    """Yields the lines of a row. It has several if a cell is wider than its column."""
    cells = [_cell_lines(row[column][0], widths[column]) for column in columns]
    for parts in zip_longest(*cells, fillvalue=""):
        line = Line()
        for column, part in zip(columns, parts, strict=True):
            gap = " " * (widths[column] - cell_len(part))
            text = gap + part if column in to_the_right else part + gap
            line.append(text if column == columns[0] else _GAP + text, style=row[column][1])
        yield line


def _cell_lines(text: str, cells: int) -> list[str]:
    return [text] if cell_len(text) <= cells else wrap_text(text, cells)


def _print_below(printer: LinePrinter, texts: dict[str, str], indent: int, limit: int) -> None:
    margin = " " * indent + _GAP
    for title, text in texts.items():
        for index, part in enumerate(
            wrap_text(f"{title}: {text}", limit - len(margin) - len(_GAP)) if text else ()
        ):
            printer.print(Line(margin + (_GAP if index else "") + part, style="dim"))
