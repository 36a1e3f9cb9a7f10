"""Reads the classes of images, and their parts, from a truth file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgclassify.errors import UsageError
from imgclassify.evaluation.name_errors import no_truth_error
from imgclassify.evaluation.source_rows import SourceRows
from imgclassify.evaluation.truth_table import FORM, TruthTable, first_cell, read_truth_table
from imgclassify.training.layout import PARTS, TRAIN, Place

_ORDER = ("label", "class", "wnid", "classindex")
"""Of several columns, the first of these names the class."""


def read_classes(file: Path, names: Sequence[str]) -> tuple[list[Place], str]:
    """Returns the class and the part of each image, and how they were found, as the end of a sentence.

    Args:
        names: of the sources. Rows are found as `evaluate` finds them.

    Raises:
        UsageError: the file cannot be read, an image has no row or several that differ, or a part is unknown.
    """
    table = read_truth_table(str(file), f"of the file, {FORM}; and split, if it says what is for validation")
    columns = list(table.columns.classes.values())
    order = sorted(range(len(columns)), key=lambda place: _ORDER.index(columns[place]))
    labels = [first_cell([cells[place] for place in order]) for cells in table.cells]
    places = [Place(labels[choice], _find_part(table, row, str(file))) for row, choice in enumerate(table.choices)]
    rows = SourceRows(str(file), table.sources, table.lines)

    def is_same(one: int, other: int) -> bool:
        return places[one] == places[other]

    rows.require_consistent(is_same)
    row_of = rows.find_all(names, is_same)
    missing = [name for name in names if name not in row_of]
    if missing:
        error = no_truth_error(missing, len(missing), len(names), f"{file} has no row for them")
        error.hint = "add their rows, or leave the images out with --exclude"
        raise error
    column = table.columns.names[list(table.columns.classes)[order[0]]]
    return [places[row_of[name]] for name in names], f"the column {column} of {file}"


def _find_part(table: TruthTable, row: int, file: str) -> str:
    if not table.parts:
        return TRAIN
    part = PARTS.get(table.parts[row].lower())
    if part is None:
        raise UsageError(
            f"{file}: line {table.lines[row]}: the part is {table.parts[row]!r}",
            hint=f"call it one of {', '.join(PARTS)}",
        )
    return part
