"""Defines what every form of a label file is read into: one row of named values per class."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imgclassify.errors import LabelsError

MAX_CLASSES = 2**18
"""Files with more classes are rejected."""
NEWLINE = re.compile(r"\r\n|\r|\n")
FORMS_HINT = "docs/labels.md shows all forms that a label file may have"

Row = tuple[str, Mapping[str, object]]
"""One class as the file gives it: its location in the file ("line 3", "[2]"), and its values by column:
`class_index`, `wnid`, `label`, `synonyms` and `gloss`. Without a class index, the row's position is the index."""


class Rows(NamedTuple):
    """The rows of a file, in the order of the file."""

    rows: Sequence[Row]
    note: str = ""
    """What the user should know about how the columns were understood."""


def require_bounded(count: int) -> None:
    if count > MAX_CLASSES:
        raise LabelsError(f"it has more than {MAX_CLASSES:,} classes", hint=FORMS_HINT)
