"""Decides which column of a table is the class index and which is the label, by the numbers and by the header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imgclassify.errors import LabelsError, short_repr

COLUMN_NAMES = {
    "class_index": (
        "class_index",
        "class_id",
        "class_idx",
        "index",
        "idx",
        "id",
        "label_id",
        "label_index",
        "label_idx",
        "category_id",
    ),
    "wnid": ("wnid", "synset"),
    "label": ("label", "name", "class", "class_name", "label_name", "category_name"),
    "synonyms": ("synonyms",),
    "gloss": ("gloss", "definition"),
}
_COLUMNS = {name.replace("_", ""): column for column, names in COLUMN_NAMES.items() for name in names}
_EITHER = ("label", "class")
"""These names stand above labels, but in other files above class indices."""

_SEPARATORS = re.compile(r"[\s_-]+")
_NUMBER = re.compile(r"\s*[0-9]{1,9}\s*")
WNID = re.compile(r"[nvars][0-9]{8}")

ORDER_HINT = (
    "give a list of the labels in the order of the network's outputs, or the class_to_idx that training printed "
    "or saved, as JSON"
)
FOLDERS = (
    "if they are the names of folders of training images, the class index is the place of a folder in text order "
    '("1", "10", "2"), which training calls class_to_idx'
)


class Columns(NamedTuple):
    """Where the values of a class are in a row of cells."""

    places: Mapping[str, int]
    """Column → position in a row."""
    first_index: int = 0
    """The number that stands for class 0: 0 or 1."""
    note: str = ""
    """What the user should know about the choice."""

    def pick(self, cells: Sequence[object]) -> dict[str, object]:
        """Returns the values of one row by column. A class index counts from 0."""
        values = {column: cells[place] for column, place in self.places.items()}
        if self.first_index:
            values["class_index"] = int(str(values["class_index"])) - self.first_index
        return values


class _Column:
    """One column of a table: its name and what its cells are."""

    def __init__(self, place: int, name: object, cells: Sequence[object]) -> None:
        self.place = place
        self.name = name
        self.meaning = column_of(name)
        self.are_numbers = bool(cells) and all(map(is_number, cells))
        self.are_wnids = bool(cells) and all(isinstance(cell, str) and WNID.fullmatch(cell) for cell in cells)
        self.are_text = not self.are_numbers and not self.are_wnids and any(map(_is_text, cells))
        self.numbers = [int(str(cell)) for cell in cells] if self.are_numbers else []
        self.start = find_start(self.numbers)

    @property
    def order(self) -> list[int]:
        """The class index of each row, if the column is a numbering."""
        return [number - (self.start or 0) for number in self.numbers]

    @property
    def is_in_order(self) -> bool:
        return self.order == list(range(len(self.numbers)))


def column_of(name: object) -> str | None:
    """Returns the column that a name in a header stands for, such as "Class ID" or "classId". None if unknown."""
    return _COLUMNS.get(_SEPARATORS.sub("", str(name).casefold()))


def is_number(cell: object) -> bool:
    """Whether a cell can be a class index: a number, or text of up to 9 digits."""
    if isinstance(cell, str):
        return _NUMBER.fullmatch(cell) is not None
    return type(cell) is int and 0 <= cell < 10**9


def _is_text(cell: object) -> bool:
    return isinstance(cell, str) and bool(cell.strip())


def find_start(numbers: Sequence[int]) -> int | None:
    """Returns 0 or 1 if the numbers are all those from there on, each once, in any order; otherwise None."""
    if not numbers or (start := min(numbers)) not in (0, 1):
        return None
    return start if sorted(numbers) == list(range(start, start + len(numbers))) else None


def find_named_columns(names: Sequence[object], location: str) -> dict[str, int]:
    """Returns the position of each known column, by the names alone. Unknown names are ignored.

    Raises:
        LabelsError: two names stand for the same column, or none for the label.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        column = column_of(name)
        if column in places:
            raise _named_twice(names[places[column]], name, column, location)
        if column:
            places[column] = place
    if "label" not in places:
        raise _unnamed_label(names, location)
    return places


def find_columns(names: Sequence[object], rows: Sequence[Sequence[object]], location: str) -> Columns:
    """Chooses the columns of a table with a header, by its cells first and by its names second.

    A column with the numbers 0 to n-1 beside a column of text is the class index, whatever its name. A column with
    the numbers 1 to n is, if its name says so or the rows are in its order. If all columns are numbers, the names
    must tell. The label has a known name, or is the only other column of text.

    Args:
        rows: the cells below the header, as many in each row as there are names.
        location: the place of the header, for errors.

    Raises:
        LabelsError: several choices are possible, or none.
    """
    columns = [_Column(place, name, [row[place] for row in rows]) for place, name in enumerate(names)]
    details: dict[str, _Column] = {}
    for column in columns:
        if column.meaning in ("wnid", "synonyms", "gloss"):
            if column.meaning in details:
                raise _named_twice(details[column.meaning].name, column.name, column.meaning, location)
            details[column.meaning] = column
    others = [column for column in columns if column not in details.values()]
    unnamed_wnids = [column for column in others if column.are_wnids and column.meaning is None]
    if "wnid" not in details and len(unnamed_wnids) == 1:
        details["wnid"] = unnamed_wnids[0]
        others.remove(unnamed_wnids[0])
    find_index = _find_index_among_numbers if all(column.are_numbers for column in others) else _find_index
    index = find_index(others, location)
    rest = [column for column in others if column is not index]
    label = _find_label(rest, index, details.get("wnid"), location)
    if label is None:
        raise _unnamed_label(names, location)
    places = {meaning: column.place for meaning, column in details.items()} | {"label": label.place}
    if index is None:
        return Columns(places)
    return Columns(places | {"class_index": index.place}, index.start or 0, _describe_choice(index))


def find_unnamed_columns(rows: Sequence[Sequence[object]]) -> Columns | None:
    """Chooses the columns of a table without a header, by the cells alone.

    Returns:
        None, unless there are a numbering and exactly one column of text.

    Raises:
        LabelsError: two columns number the classes differently.
    """
    columns = [_Column(place, "", [row[place] for row in rows]) for place in range(len(rows[0]))]
    wnids = [column for column in columns if column.are_wnids]
    texts = [column for column in columns if column.are_text] or wnids
    numberings = [column for column in columns if column.start == 0] or [
        column for column in columns if column.start == 1
    ]
    if len(texts) != 1 or len(wnids) > 1 or not numberings:
        return None
    index = _agreed(numberings, "line 1")
    places = {"class_index": index.place, "label": texts[0].place}
    return Columns(places | ({"wnid": wnids[0].place} if wnids else {}), index.start or 0)


def _find_index(columns: list[_Column], location: str) -> _Column | None:
    """Returns the class index among columns that are not all numbers. The best evidence comes first."""
    named = [
        column
        for column in columns
        if column.meaning == "class_index" or (column.are_numbers and _may_be_either(column))
    ]
    others = [column for column in columns if column not in named and column.meaning is None]
    from_zero = [column for column in named if column.start == 0] or [
        column for column in others if column.start == 0
    ]
    named_from_one = [column for column in named if column.start == 1]
    if from_zero or named_from_one:
        # Row numbers from 0, as pandas writes, may stand beside an index from 1. They must agree with it.
        first = from_zero if from_zero and from_zero[0] in named else [*named_from_one, *from_zero]
        chosen = _agreed(first, location)
        return from_zero[0] if from_zero else chosen
    if named:
        return named[0]
    from_one = [column for column in others if column.start == 1]
    if from_one and not all(column.is_in_order for column in from_one):
        raise counted_from_one(len(from_one[0].numbers))
    return from_one[0] if from_one else None


def _find_index_among_numbers(columns: list[_Column], location: str) -> _Column | None:
    """Returns the class index of a table in which even the labels are numbers, so that the names must tell."""
    named = [column for column in columns if column.meaning == "class_index"]
    if len(named) > 1:
        raise _named_twice(named[0].name, named[1].name, "class_index", location)
    if named:
        return named[0]
    if len(columns) == 1:
        return None if columns[0].meaning == "label" else columns[0]
    labels = [column for column in columns if column.meaning == "label" and not _may_be_either(column)]
    numberings = [column for column in columns if column not in labels and column.start is not None]
    if len(labels) == 1:
        return _agreed(numberings, location) if numberings else None
    if all(column.is_in_order for column in columns if column.start is not None):
        return None  # every reading gives the same order
    raise all_numbers()


def _find_label(
    columns: list[_Column], index: _Column | None, wnid: _Column | None, location: str
) -> _Column | None:
    """Returns the column with a name of the label. Beside an index or a wnid, a single text needs no name."""
    named = [column for column in columns if column.meaning == "label"]
    named = [column for column in named if not column.are_numbers] or named
    if len(named) > 1:
        raise _named_twice(named[0].name, named[1].name, "label", location)
    if named:
        return named[0]
    texts = [column for column in columns if column.are_text and column.meaning is None]
    if len(texts) == 1 and (index or wnid):
        return texts[0]
    return None if texts else wnid


def _may_be_either(column: _Column) -> bool:
    return str(column.name).strip().casefold() in _EITHER


def _agreed(numberings: list[_Column], location: str) -> _Column:
    """Returns the first of the columns.

    Raises:
        LabelsError: they do not number the rows in the same way.
    """
    for column in numberings[1:]:
        if column.order != numberings[0].order:
            raise LabelsError(
                f"{location}: columns {numberings[0].place + 1} and {column.place + 1} both number the classes, "
                "but in different orders",
                hint="keep the one with the class indices that the network was trained with",
            )
    return numberings[0]


def _describe_choice(index: _Column) -> str:
    if index.start == 1:
        return f"the column {short_repr(index.name)} counts from 1, so its number 1 is class 0"
    is_named = index.meaning is not None or str(index.name).strip() == ""
    if index.start is None or is_named or index.is_in_order:
        return ""
    return (
        f"the column {short_repr(index.name)} is the class index: it has the numbers 0 to {len(index.numbers) - 1}"
    )


def counted_from_one(count: int, *, has_lines: bool = True) -> LabelsError:
    """Returns the error for numbers from 1 without a header, which may be places of outputs or names of folders.

    Args:
        has_lines: whether a header can be put above the classes, as it cannot in JSON.
    """
    header = "if number 1 is the network's first output, say so with the header id,label in line 1; "
    return LabelsError(
        f"the classes are numbered from 1 to {count}, but class indices begin at 0",
        hint=f"{header}{FOLDERS}: then {ORDER_HINT}" if has_lines else ORDER_HINT,
    )


def keys_without_zero(keys: Sequence[object], numbers: Sequence[int]) -> LabelsError:
    """Returns the error for an object whose keys are numbers, but not class indices, as in cat_to_name.json."""
    what = f"count from 1 to {len(numbers)}" if find_start(numbers) == 1 else f"begin at {min(numbers)}"
    return LabelsError(
        f"its keys, such as {short_repr(keys[0])}, {what}, but class indices begin at 0",
        hint=f"{FOLDERS}; either way, {ORDER_HINT}",
    )


def all_numbers() -> LabelsError:
    return LabelsError(
        "all columns are numbers: either may be the class index, and the other the label",
        hint="say which with a header such as index,label or label,index in line 1; if a whole line is a label, "
        "use a JSON list",
    )


def _named_twice(first: object, second: object, column: str, location: str) -> LabelsError:
    return LabelsError(
        f"{location}: {short_repr(first)} and {short_repr(second)} both name the {column}",
        hint="keep one of the two",
    )


def _unnamed_label(names: Sequence[object], location: str) -> LabelsError:
    return LabelsError(
        f"{location}: none of {short_repr(list(names))} names the label",
        hint=f"call it one of {', '.join(COLUMN_NAMES['label'])}",
    )
