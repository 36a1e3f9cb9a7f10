"""Reads the classes of images, and their parts, from a truth file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.name_errors import no_truth_error, plural
from imgclassify.evaluation.source_rows import SourceRows
from imgclassify.evaluation.truth_table import FORM, TruthTable, read_truth_table
from imgclassify.training.layout import PARTS, part_of

_ORDER = ("label", "class", "wnid", "classindex")
"""Of several columns, the first of these names the class."""
_WHOLE = re.compile(r"([0-9]+)\.0")
"""A column of integers with a gap is written by pandas as 7.0."""


class TruthClasses(NamedTuple):
    """What a truth file says of some images."""

    labels: list[str]
    parts: list[str] | None
    """layout.TRAIN, VAL or TEST. None if no column tells them."""
    how: str
    """How the classes were found, as the end of a sentence."""
    notes: list[str]


def read_classes(file: Path, names: Sequence[str]) -> TruthClasses:
    """Returns the class and the part of each image. The names of classes are those in the file.

    Args:
        names: of the sources. Rows are found as `evaluate` finds them.

    Raises:
        UsageError: the file cannot be read, an image has no row or several that differ, the columns of rows
            contradict each other, or a part is unknown.
    """
    table = read_truth_table(str(file), f"of the file, {FORM}; and split, if it says what is for validation")
    labels = _find_labels(table, str(file))
    parts = [_find_part(table, row, str(file)) for row in range(len(table.parts))]
    rows = SourceRows(str(file), table.sources, table.lines)

    def is_same(one: int, other: int) -> bool:
        return labels[table.choices[one]] == labels[table.choices[other]] and (
            not parts or parts[one] == parts[other]
        )

    rows.require_consistent(is_same)
    row_of = rows.find_all(names, is_same)
    if missing := [name for name in names if name not in row_of]:
        error = no_truth_error(missing, len(missing), len(names), f"{file} has no row for them")
        error.hint = "add their rows, or leave the images out with --exclude"
        raise error
    unused = len(table.sources) - len(set(row_of.values())) - rows.num_repeated
    column = table.columns.names[list(table.columns.classes)[_order(table)[0]]]
    return TruthClasses(
        [labels[table.choices[row_of[name]]] for name in names],
        [parts[row_of[name]] for name in names] if parts else None,
        f"the column {column} of {file}",
        [f"{plural(unused, 'row')} of {file} fit no image"] if unused else [],
    )


def _order(table: TruthTable) -> list[int]:
    """Returns the places of the cells of a class, that of the name first."""
    columns = list(table.columns.classes.values())
    return sorted(range(len(columns)), key=lambda place: _ORDER.index(columns[place]))


def _find_labels(table: TruthTable, file: str) -> list[str]:
    """Returns the name of the class of each combination of cells.

    Raises:
        UsageError: the same name stands beside different cells, such as that of another class index.
    """
    order = _order(table)
    others: dict[tuple[str, int], tuple[str, int]] = {}
    labels = []
    for cells, line in zip(table.cells, table.first_lines, strict=True):
        ordered = [_WHOLE.sub(r"\1", cells[place]) for place in order]
        label = next(filter(None, ordered))
        labels.append(label)
        for place, cell in enumerate(ordered):
            other, first = others.setdefault((label, place), (cell, line)) if cell else (cell, line)
            if other != cell:
                raise UsageError(
                    f"{file}: {label!r} is {other!r} in line {first} and {cell!r} in line {line}",
                    hint="give two classes two names, or remove the column that does not count",
                )
    return labels


def _find_part(table: TruthTable, row: int, file: str) -> str:
    part = part_of(table.parts[row])
    if part is None:
        raise UsageError(
            f"{file}: line {table.lines[row]}: the part is {table.parts[row]!r}",
            hint=f"call it one of {', '.join(PARTS)}",
        )
    return part
