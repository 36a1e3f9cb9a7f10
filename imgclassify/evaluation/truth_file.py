"""The truth of images by a CSV file with a row for each image. source_rows.py finds the row of an image."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

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
from imgclassify.labels.cell_table import CellTable
from imgclassify.sources import IMAGE_SUFFIXES

MAX_BYTES = 2**30
"""Larger files are rejected. ImageNet's 1.3 million training images take 80 MB."""

_SOURCE_COLUMNS = ("source", "file", "filename", "filepath", "image", "imagepath", "path")
_ID_COLUMNS = ("id", "imageid")
"""They name the images if no other column does. Beside another column they may count the rows."""
_CLASS_COLUMNS = {
    "class": ("label", "wnid", "class_index"),
    "label": ("label",),
    "wnid": ("wnid",),
    "classindex": ("class_index",),
}
"""Column → what its cells may be."""
_SEPARATORS = re.compile(r"[\s_-]+")
_INDEX = re.compile(r"([0-9]{1,9})(?:\.0)?")
"""A column of integers with a gap is written by pandas as 7.0."""
_HOLDS_INDICES = (
    "a column called label or wnid does not hold numbers: if these are class indices of the model, which count "
    "from 0, call it class_index; or give --map FILE with a line for each of these names"
)
_FORM = "the first line names the columns: source, and one or more of class, label, wnid and class_index"


class _Columns(NamedTuple):
    names: list[str]
    """As in the header."""
    source: int
    classes: dict[int, str]
    """Position → its name in _CLASS_COLUMNS."""


class _Table(NamedTuple):
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


def read_truth_file(finder: ClassFinder, sources: Sequence[str], file: str, *, ignore_unknown: bool) -> FoundTruth:
    """Finds the truth of images in a CSV file.

    Raises:
        UsageError: the file cannot be read, a cell names no class or the columns of a row name different ones, a
            source is there twice with different classes, or an image has no row, or more than one that fits.
    """
    hint = f"--truth takes folders, names or the path of a CSV file; of the file, {_FORM}"
    table = _read(CellTable(file, "truth file", hint, max_bytes=MAX_BYTES))
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
        names={key: _first_cell(table.cells[key]) for key in range(len(found))},
        without_truth=len(missing),
        unused_rows=len(table.sources) - len(set(row_of.values())) - rows.num_repeated,
        file=file,
        all_names=all_cells,
    )


def _read(table: CellTable) -> _Table:
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
    if not sources:
        raise UsageError(f"{table.name} has no rows below its header", hint=_FORM)
    return _Table(columns, sources, lines, choices, list(known), first_lines)


def _find_columns(file: str, header: Sequence[str]) -> _Columns | None:
    """Returns the columns that the header names. None if one is missing.

    Raises:
        UsageError: two columns are the source, or two have the same name.
    """
    names = [cell.strip() for cell in header]
    keys = [_SEPARATORS.sub("", name).casefold() for name in names]
    sources = [place for place, key in enumerate(keys) if key in _SOURCE_COLUMNS]
    sources = sources or [place for place, key in enumerate(keys) if key in _ID_COLUMNS]
    classes = {place: key for place, key in enumerate(keys) if key in _CLASS_COLUMNS}
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
    return _Columns(names, sources[0], classes)


def _header_error(file: str, line: int, header: Sequence[str]) -> UsageError:
    if not header:
        return UsageError(f"the truth file {file!r} is empty", hint=_FORM)
    if any(cell.strip().lower().endswith(tuple(IMAGE_SUFFIXES)) for cell in header):
        return UsageError(
            f"{file} has no header: line {line} is {','.join(header)!r:.80}",
            hint="put a header such as source,class into the first line",
        )
    keys = [_SEPARATORS.sub("", cell).casefold() for cell in header]
    lacks = [] if set(keys) & {*_SOURCE_COLUMNS, *_ID_COLUMNS} else ["the images (source)"]
    lacks += [] if set(keys) & _CLASS_COLUMNS.keys() else ["the classes (class, label, wnid or class_index)"]
    found = ", ".join(repr(cell.strip()) for cell in header)
    return UsageError(
        f"{file} has no column for {' and for '.join(lacks)}: its columns are {found:.200}",
        hint=f"rename them: {_FORM}",
    )


def _find_classes(table: _Table, finder: ClassFinder, file: str, *, ignore_unknown: bool) -> list[Match | Mismatch]:
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
        numbers = len({_first_cell(cells) for cells in table.cells})
        raise unmatched_error(
            list(unmatched.values()),
            finder,
            what="class",
            number=numbers,
            unit="row",
            lead=f"{file}: ",
            counted_from_one=seem_counted_from_one((cell for cell, _ in found), len(finder.label_set)),
            instead=_HOLDS_INDICES if _seem_indices(unmatched, table.columns) else "",
        )
    return [match for _, match in found]


def _seem_indices(names: Iterable[str], columns: _Columns) -> bool:
    """Whether names are numbers in columns that hold none."""
    return "class" not in columns.classes.values() and all(map(_INDEX.fullmatch, names))


def _check_indices(table: _Table, finder: ClassFinder, file: str) -> None:
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
    table: _Table, finder: ClassFinder, cells: Sequence[str], file: str, line: int
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


def _find_each(table: _Table, finder: ClassFinder, cells: Sequence[str]) -> Iterator[tuple[str, Match | Mismatch]]:
    for cell, column in zip(cells, table.columns.classes.values(), strict=True):
        if cell:
            text = _INDEX.sub(r"\1", cell) if column == "classindex" else cell
            yield cell, finder.find(text, _CLASS_COLUMNS[column])


def _first_cell(cells: Sequence[str]) -> str:
    return next(filter(None, cells))


class _Sameness:
    """Whether two rows have the same class."""

    def __init__(self, table: _Table, found: Sequence[Match | Mismatch]) -> None:
        self._choices = table.choices
        self._classes = [match.class_indices if isinstance(match, Match) else match for match in found]
        self._cells = table.cells

    def __call__(self, one: int, other: int) -> bool:
        first, second = self._choices[one], self._choices[other]
        if first == second:
            return True
        classes = self._classes[first], self._classes[second]
        return isinstance(classes[0], frozenset) and classes[0] == classes[1]
