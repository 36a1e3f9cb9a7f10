"""Tables for the listing commands: aligned columns, in colour on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from imgclassify.errors import make_printable
from imgclassify.output.terminal import Line, LinePrinter


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> None:
    """Prints rows under a dim header. On a terminal, lines are cut at its width. Elsewhere they are whole.

    Args:
        head: the titles of the columns. If empty, there is no header.
        right: indices of the columns that are aligned to the right.
    """
    cells = [[make_printable(cell) for cell in row] for row in rows]
    everything = [list(head), *cells] if head else cells
    widths = [max(map(cell_len, column)) for column in zip(*everything, strict=True)]
    to_the_right = set(right)
    printer = LinePrinter(sys.stdout)
    for index, row in enumerate(everything):
        padded = []
        for column, cell in enumerate(row):
            gap = " " * (widths[column] - cell_len(cell))
            padded.append(gap + cell if column in to_the_right else cell + gap)
        printer.print(Line("  ".join(padded).rstrip(), style="dim" if head and index == 0 else ""), cut=True)
