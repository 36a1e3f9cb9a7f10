"""Reads the rows of the user's CSV files that name classes: groups, maps, trees, truth. Label files: tables.py."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imgclassify.errors import LabelsError, UsageError, describe_error
from imgclassify.labels.lookup import read_label_text

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_DELIMITERS = "\t,;"


class CellTable:
    """The text of a file of rows, whose cells are separated by tabs, commas or semicolons."""

    def __init__(self, name: str, what: str, hint: str, *, max_bytes: int | None = None) -> None:
        """
        Args:
            name: the path of the file.
            what: what the file is, and
            hint: what it should look like, for errors.
            max_bytes: a larger file is an error. The default is the limit of label files.

        Raises:
            UsageError: there is no such file, or it is too large, cannot be read or is not text.
        """
        try:
            is_there = Path(name).exists()
        except (OSError, ValueError):  # too long for a name, or a NUL in it
            is_there = False
        if not is_there:
            raise UsageError(f"the {what} {name!r} does not exist", hint=hint)
        self.name = name
        self._hint = hint
        try:
            self._text = read_label_text(name, what=what, max_bytes=max_bytes).removeprefix("\ufeff")
        except LabelsError as error:
            raise UsageError(str(error), hint=error.hint) from error

    def rows(self, is_header: Callable[[Sequence[str]], bool] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Yields the number of the last line of each row, from 1, and its cells. Blank rows are left out.

        Args:
            is_header: chooses the delimiter: the first with which it is true of the first row. Otherwise it is the
                first of tab, comma and semicolon that is in the first row.

        Raises:
            UsageError: quotes are not closed, or a cell has more than 131,072 characters.
        """
        lines = (match[0] for match in _LINE.finditer(self._text))
        delimiter = self._find_delimiter(is_header)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                if any(map(str.strip, cells)):
                    yield reader.line_num, cells
        except csv.Error as error:
            if self._text.lstrip()[:1] in ("{", "["):
                reason = "it is JSON, not CSV"
            elif str(error).startswith("unexpected end"):
                reason = "a double quote before it is not closed"
            else:
                reason = describe_error(error)
            raise UsageError(f"{self.name}: line {reader.line_num}: {reason}", hint=self._hint) from error

    def _find_delimiter(self, is_header: Callable[[Sequence[str]], bool] | None) -> str:
        first = next((match[0] for match in _LINE.finditer(self._text) if match[0].strip()), "")
        if is_header:
            for delimiter in _DELIMITERS:
                try:
                    if is_header(next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])):
                        return delimiter
                except csv.Error:
                    continue
        return next((each for each in _DELIMITERS if each in first), ",")
