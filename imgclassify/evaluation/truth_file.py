"""The truth of images by a CSV file with a row for each image. source_rows.py finds the row of an image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence

from imgclassify.errors import UsageError
from imgclassify.evaluation.class_finder import ClassFinder, Match, Mismatch, settle
from imgclassify.evaluation.found_truth import FoundTruth
from imgclassify.evaluation.name_errors import (
    Unmatched,
    no_truth_error,
    seem_counted_from_one,
    unmatched_error,
)
from imgclassify.evaluation.source_names import without_frame
from imgclassify.evaluation.source_rows import SourceRows
from imgclassify.evaluation.truth_table import CLASS_COLUMNS, FORM, TruthTable, first_cell, read_truth_table

_INDEX = re.compile(r"([0-9]{1,9})(?:\.0)?")
"""A column of integers with a gap is written by pandas as 7.0."""
_HOLDS_INDICES = (
    "a column called label or wnid does not hold numbers: if these are class indices of the model, which count "
    "from 0, call it class_index; or give --map FILE with a line for each of these names"
)


def read_truth_file(finder: ClassFinder, sources: Sequence[str], file: str, *, ignore_unknown: bool) -> FoundTruth:
    """Finds the truth of images in a CSV file.

    Raises:
        UsageError: the file cannot be read, a cell names no class or the columns of a row name different ones, a
            source is there twice with different classes, or an image has no row, or more than one that fits.
    """
    table = read_truth_table(file, f"--truth takes folders, names or the path of a CSV file; of the file, {FORM}")
    all_cells = {cell for cells in table.cells for cell in cells}
    finder.require_used_map(all_cells)
    found = _find_classes(table, finder, file, ignore_unknown=ignore_unknown)
    rows = SourceRows(file, table.sources, table.lines)
    is_same = _Sameness(table, found)
    rows.require_consistent(is_same)
    row_of = rows.find_all(sources, is_same)
    missing = [source for source in sources if source not in row_of]
    if missing and not ignore_unknown:
        raise no_truth_error(missing, len(missing), len(sources), f"{file} has no row for them")
    counts: Counter[Hashable] = Counter(table.choices[row_of[source]] for source in sources if source in row_of)
    used = counts.keys()
    names = [table.columns.names[place] for place in table.columns.classes]
    left_out = frozenset(missing)

    def key_of(source: str) -> Hashable | None:
        name = source if source in row_of or source in left_out else without_frame(source)
        return None if name in left_out else table.choices[row_of[name]]

    return FoundTruth(
        how=f"the column{'s' * (len(names) > 1)} {' and '.join(names)} of {file}",
        key_of=key_of,
        matches={key: match for key, match in enumerate(found) if isinstance(match, Match) and key in used},
        counts=counts,
        ignored=[key for key, match in enumerate(found) if isinstance(match, Mismatch) and key in used],
        names={key: first_cell(table.cells[key]) for key in range(len(found))},
        without_truth=len(missing),
        unused_rows=len(table.sources) - len(set(row_of.values())) - rows.num_repeated,
        file=file,
        all_names=all_cells,
    )


def _find_classes(
    table: TruthTable, finder: ClassFinder, file: str, *, ignore_unknown: bool
) -> list[Match | Mismatch]:
    """Returns the class of each combination of cells."""
    _check_indices(table, finder, file)
    found = [
        _combine(table, finder, cells, file, line)
        for cells, line in zip(table.cells, table.first_lines, strict=True)
    ]
    settled = settle({choice: match for choice, (_, match) in enumerate(found)})
    found = [(cell, settled[choice]) for choice, (cell, _) in enumerate(found)]
    counts = Counter(table.choices)
    unmatched: dict[str, Unmatched] = {}
    for choice, (cell, match) in enumerate(found):
        if isinstance(match, Mismatch) and not (ignore_unknown and match.kind == "unknown"):
            count = counts[choice] + (unmatched[cell].images if cell in unmatched else 0)
            unmatched[cell] = Unmatched(cell, match, count, f"line {table.first_lines[choice]}")
    if unmatched:
        numbers = len({first_cell(cells) for cells in table.cells})
        raise unmatched_error(
            list(unmatched.values()),
            finder,
            what="class",
            number=numbers,
            unit="row",
            lead=f"{file}: ",
            counted_from_one=seem_counted_from_one((cell for cell, _ in found), len(finder.label_set)),
            instead=_HOLDS_INDICES if _seem_indices(unmatched, table) else "",
        )
    return [match for _, match in found]


def _seem_indices(names: Iterable[str], table: TruthTable) -> bool:
    """Whether names are numbers in columns that hold none."""
    return "class" not in table.columns.classes.values() and all(map(_INDEX.fullmatch, names))


def _check_indices(table: TruthTable, finder: ClassFinder, file: str) -> None:
    """Raises UsageError if a class index is no number, or too large."""
    if "classindex" not in table.columns.classes.values():
        return
    position = list(table.columns.classes.values()).index("classindex")
    count = len(finder.label_set)
    texts = [cells[position] for cells in table.cells]
    for text, line in zip(texts, table.first_lines, strict=True):
        number = _INDEX.fullmatch(text)
        if text and not number:
            raise UsageError(
                f"{file}: line {line}: the class index is {text!r:.60}, not a whole number from 0",
                hint="call the column class if it has labels or wnids",
            )
        if number and int(number[1]) >= count:
            numbers = [_INDEX.sub(r"\1", each) for each in texts if each]
            from_one = seem_counted_from_one(numbers, count)
            raise UsageError(
                f"{file}: line {line}: the class index is {text}, but those of {finder.label_set.name} are "
                f"0 to {count - 1}{'; the column seems to count from 1' if from_one else ''}",
                hint="subtract 1 from each class index" if from_one else "give the class indices of this model",
            )


def _combine(
    table: TruthTable, finder: ClassFinder, cells: Sequence[str], file: str, line: int
) -> tuple[str, Match | Mismatch]:
    """Returns the cell that tells the class, and the class. All cells must agree.

    What may mean several classes is decided by another cell that means one of them.
    """
    found = list(_find_each(table, finder, cells))
    matches = [(cell, match) for cell, match in found if isinstance(match, Match)]
    others = [(cell, match) for cell, match in found if isinstance(match, Mismatch)]
    for cell, mismatch in others:
        if mismatch.kind == "unknown" or not matches:
            return cell, mismatch
    cell, match = matches[0]
    disagree = [text for text, other in matches if other.class_indices != match.class_indices]
    disagree += [
        text for text, other in others if not any(match.class_indices <= choice for choice in other.choices)
    ]
    if disagree:
        raise UsageError(
            f"{file}: line {line}: {cell!r} and {disagree[0]!r} are different classes of {finder.label_set.name}",
            hint="correct the line, or remove the column that does not count",
        )
    return cell, match


def _find_each(
    table: TruthTable, finder: ClassFinder, cells: Sequence[str]
) -> Iterator[tuple[str, Match | Mismatch]]:
    for cell, column in zip(cells, table.columns.classes.values(), strict=True):
        if cell:
            text = _INDEX.sub(r"\1", cell) if column == "classindex" else cell
            yield cell, finder.find(text, CLASS_COLUMNS[column])


class _Sameness:
    """Whether two rows have the same class."""

    def __init__(self, table: TruthTable, found: Sequence[Match | Mismatch]) -> None:
        self._choices = table.choices
        self._classes = [match.class_indices if isinstance(match, Match) else match for match in found]
        self._cells = table.cells

    def __call__(self, one: int, other: int) -> bool:
        first, second = self._choices[one], self._choices[other]
        if first == second:
            return True
        classes = self._classes[first], self._classes[second]
        return isinstance(classes[0], frozenset) and classes[0] == classes[1]
