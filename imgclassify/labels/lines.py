"""Reads one class per line: a label, with or without a class index and a wnid before or behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from imgclassify.errors import LabelsError
from imgclassify.labels.columns import (
    all_numbers,
    column_of,
    counted_from_one,
    find_columns,
    find_start,
    is_number,
)
from imgclassify.labels.rows import MAX_CLASSES, NEWLINE, Rows, require_bounded

_WNID_FIRST = re.compile(r"([nvars][0-9]{8})(?:[\s,:;]\s*|$)(.*)")


class _Form(NamedTuple):
    """A way to write a class index beside a label."""

    pattern: re.Pattern[str]
    """Matches a whole line. Its groups are `index` and `label`."""
    header: re.Pattern[str]
    """The same for a header line."""
    is_certain: bool = False
    """Whether it is assumed whatever the numbers are."""
    may_have_gaps: bool = False
    """Whether it is assumed also if a few numbers are missing. Otherwise the numbers must be a numbering."""
    has_separator: bool = False
    """Whether the separator is one that rarely stands between a word and its number."""


_QUOTED = (re.compile(r'"(?:[^"]|"")+"'), re.compile(r"'.+'"))
"""A line in quotes."""
_LOOSE = r"(?:\s*(?:->|=>|[|)=])\s*|\.\s+|\s+-\s+|\s+)"
"""Separators that labels may contain too."""
_FORMS = (
    _Form(
        re.compile(r"(?P<index>[0-9]+)\s*[,:;\t，：；]\s*(?P<label>.*)"),
        re.compile(r"(?P<index>.*?\S)\s*[,:;\t，：；]\s*(?P<label>.*)"),
        is_certain=True,
        has_separator=True,
    ),
    _Form(
        re.compile(r"(?P<label>.*\S)\s*[,:;\t，：；]\s*(?P<index>[0-9]+)"),
        re.compile(r"(?P<label>.*\S)\s*[,:;\t，：；]\s*(?P<index>.*\S)"),
        may_have_gaps=True,
        has_separator=True,
    ),
    _Form(
        re.compile(rf"(?P<index>[0-9]+){_LOOSE}(?P<label>\S.*)"),
        re.compile(rf"(?P<index>\S+?){_LOOSE}(?P<label>\S.*)"),
        may_have_gaps=True,
    ),
    _Form(
        re.compile(rf"(?P<label>.*?\S){_LOOSE}(?P<index>[0-9]+)"),
        re.compile(rf"(?P<label>.*?\S){_LOOSE}(?P<index>\S+)"),
    ),
)
_PART_OF_LABEL_HINT = (
    'write the index first, with a comma ("0,cat"); '
    "if the numbers belong to the labels, use a JSON list of the labels"
)


class _Indexed(NamedTuple):
    """Lines without their class indices."""

    class_indices: Sequence[object] | None
    labels: list[str]
    header_lines: int = 0
    note: str = ""


def read_lines(text: str) -> Rows:
    """Reads one class per line.

    A class index is split off where every line has one, in one of these forms:

    - a number, then a comma, colon, semicolon or tab, then the label;
    - the label, then such a separator, then a number; the numbers are 0 to n-1 in any order;
    - the same two with white space or a sign such as "-" or "=" as the separator; the numbers are 0 to n-1 in both.

    Where a number may be part of a label, as in "zone 0", "zone 1", "zone 2", it is split off only if what is left
    still tells the classes apart. Otherwise whole lines are the labels if the lines are in the order of the numbers
    or of the text; it is an error if not. A first line without a number is a header if all others have one.

    Raises:
        LabelsError: a line is blank, or it is unclear what the numbers are.
    """
    lines = [line.strip() for line in NEWLINE.split(text.rstrip(), MAX_CLASSES + 1)]
    require_bounded(len(lines))
    if "" in lines:
        raise LabelsError(
            f"line {lines.index('') + 1} is blank",
            hint="remove blank lines and headings: every line must name a class",
        )
    lines = _unwrap(lines)
    indexed = _split_off_index(lines)
    wnids, labels = _split_off_wnid(indexed.labels)
    if wnids and indexed.class_indices is None:
        indexed = _split_off_index(labels)
        labels = indexed.labels
    if wnids and not any(labels):  # the lines contain only wnids
        labels = wnids
    labels = _unwrap(labels)
    if indexed.class_indices is not None:
        labels = [_strip_quotes(label) for label in labels]
    columns = {"class_index": indexed.class_indices, "wnid": wnids, "label": labels}
    rows = [
        (
            f"line {place + 1 + indexed.header_lines}",
            {column: values[place] for column, values in columns.items() if values},
        )
        for place in range(len(labels))
    ]
    return Rows(rows, indexed.note)


def _split_off_index(lines: list[str]) -> _Indexed:
    for form in _FORMS:
        if (pairs := _match_all(form.pattern, lines)) and _is_index(form, pairs, lines):
            _check_numbers(pairs)
            return _Indexed([index for index, _ in pairs], [label for _, label in pairs])
    for form in _FORMS:
        if found := _split_below_header(form, lines):
            return found
    return _Indexed(None, lines)


def _match_all(pattern: re.Pattern[str], lines: list[str]) -> list[tuple[str, str]]:
    """Returns the index and the label of every line, or nothing unless every line has them."""
    pairs = []
    for line in lines:
        if not (match := pattern.fullmatch(line)):
            return []
        pairs.append((match["index"], match["label"]))
    return pairs


def _is_index(form: _Form, pairs: list[tuple[str, str]], lines: list[str]) -> bool:
    if form.is_certain:
        return True
    numbers = _to_numbers(pairs)
    start = find_start(numbers)
    if len(numbers) < 2 or (start is None and not (form.may_have_gaps and _has_gaps(numbers))):
        return False
    if _are_names(form, pairs):
        return True
    if start == 0 and numbers != sorted(numbers) and lines != sorted(lines):
        raise LabelsError(
            "the number in each line may be the class index, or a part of the label", hint=_PART_OF_LABEL_HINT
        )
    return False


def _to_numbers(pairs: list[tuple[str, str]]) -> list[int]:
    return [int(index) for index, _ in pairs] if all(is_number(index) for index, _ in pairs) else []


def _has_gaps(numbers: list[int]) -> bool:
    """Whether the numbers are most of a numbering from 0 or 1."""
    count = len(numbers)
    return count > 2 and min(numbers) < 2 and max(numbers) <= 2 * count and len(set(numbers)) == count


def _are_names(form: _Form, pairs: list[tuple[str, str]]) -> bool:
    """Whether the labels differ without the numbers. A few may be equal, such as ImageNet's two cranes."""
    share = 0.6 if form.has_separator else 0.9
    return len({label for _, label in pairs}) >= share * len(pairs)


def _check_numbers(pairs: list[tuple[str, str]]) -> None:
    """Raises LabelsError if it is unclear which class each number stands for."""
    numbers = _to_numbers(pairs)
    if all(is_number(label) for _, label in pairs):
        if numbers != [int(label) for _, label in pairs]:
            raise all_numbers()
    elif find_start(numbers) == 1:
        raise counted_from_one(len(pairs))


def _split_below_header(form: _Form, lines: list[str]) -> _Indexed | None:
    """Splits the lines below a header. Returns None if the first line is none."""
    pairs = _match_all(form.pattern, lines[1:])
    start = find_start(_to_numbers(pairs))
    if len(pairs) < 2 or start is None or not (form.is_certain or _are_names(form, pairs)):
        return None
    if form.pattern.fullmatch(lines[0]):  # a class too, whose number does not fit
        return None
    header = form.header.fullmatch(lines[0])
    if start == 1 and not (header and (form.has_separator or _is_known(header))):
        return None
    if not header:
        raise LabelsError(
            f"line 1 is {lines[0][:60]!r}, without a class index; all other lines have one",
            hint="remove it if it is a heading; if it is a class, give it its index",
        )
    columns = find_columns([header["index"], header["label"]], pairs, "line 1")
    picked = [columns.pick(pair) for pair in pairs]
    class_indices = [values["class_index"] for values in picked] if "class_index" in columns.places else None
    return _Indexed(class_indices, [str(values["label"]) for values in picked], 1, columns.note)


def _is_known(header: re.Match[str]) -> bool:
    return column_of(header["index"]) == "class_index"


def _split_off_wnid(lines: list[str]) -> tuple[list[str] | None, list[str]]:
    """Splits each line into its wnid and the rest. Returns (None, lines) unless every line begins with a wnid."""
    matches = []
    for line in lines:
        if not (match := _WNID_FIRST.fullmatch(line)):
            return None, lines
        matches.append(match)
    return [match[1] for match in matches], [match[2] for match in matches]


def _unwrap(lines: list[str]) -> list[str]:
    """Takes off commas at the ends of lines, and quotes around them, if all lines have them.

    Such lines are copied from a list or dict. The last one may lack the comma.
    """
    if len(lines) > 1 and all(line.endswith(",") for line in lines[:-1]):
        lines = [line.removesuffix(",").rstrip() for line in lines]
    if len(lines) > 1:
        for quoted in _QUOTED:
            if all(map(quoted.fullmatch, lines)):
                return [line[1:-1].replace('""', '"') for line in lines]
    return lines


def _strip_quotes(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell
