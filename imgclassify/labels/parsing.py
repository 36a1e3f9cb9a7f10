"""Parses the text of a label file: detects its form, and checks its classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from operator import attrgetter

from imgclassify.errors import LabelsError, short_repr
from imgclassify.labels.label_set import Label
from imgclassify.labels.rows import FORMS_HINT, NEWLINE, Row, Rows

logger = logging.getLogger("imgclassify")

_CLASS_INDEX = re.compile(r"[0-9]{1,9}")
_WNID = re.compile(r"[nvars][0-9]{8}")
# Escapes in JSON and Python can denote half of a surrogate pair, which no output can represent.
_SURROGATE = re.compile("[\ud800-\udfff]")

_INDEX_HINT = (
    "each class of the network has one index, from 0 on, without gaps: class_to_idx of its training has them; "
    "if the numbers belong to the labels, use a JSON list of the labels"
)


def parse_labels(text: str, name: str) -> tuple[Label, ...]:
    """Returns the labels in `text`, in class-index order.

    The form is detected from the text alone:

    - If it begins with a bracket, it is JSON or a Python literal. Lines of # comments may precede the bracket. A
      dict may be a model's config.json, or a similar file with the names under a usual key.
    - If it is YAML with a list or dict under `names` or a similar key, these are the labels.
    - If its first line is a name of the label column, or has several cells and a known column name among them,
      it is CSV or TSV with a header. So it is if one of its columns numbers the lines, under any header.
    - Otherwise it has one class per line. A class index before or behind each label is split off, and then a wnid
      if every line begins with one. The rest of the line, including commas, is the label.

    A column that numbers the classes from 0 to n-1 is the class index. If it counts from 1, a header must say so,
    and a warning is logged. Without class indices, the first class is 0. White space around a label is removed.

    Args:
        name: the name of the text in error messages, such as its file's name.

    Raises:
        LabelsError: the text has none of these forms, no classes, a label that is empty or not text, or class
            indices other than 0 to n-1; or it can be read in several ways. The message names the line or key and
            the value.
    """
    text = text.removeprefix("\ufeff")
    try:
        if not text.strip():
            raise LabelsError("there is nothing in it", hint=FORMS_HINT)
        found = _read_rows(text)
        labels = _to_labels(found.rows)
    except LabelsError as error:
        raise LabelsError(f"{name}: {error}", hint=error.hint) from error.__cause__
    if found.note:
        logger.warning("%s: %s", name, found.note)
    return labels


_EXCEL_SEPARATOR = re.compile(r"\Asep=[^\n]\r?\n", re.IGNORECASE)
"""A first line that tells Excel the separator. The separator is found without it."""


def _read_rows(text: str) -> Rows:
    # Only a user's file needs these. A shipped label set, which most runs load, is read without them.
    from imgclassify.labels import documents, lines, tables, yaml_names

    text = _EXCEL_SEPARATOR.sub("", text, count=1)
    if document := documents.find_document(text):
        return documents.read_document(document)
    if delimiter := tables.header_delimiter(NEWLINE.split(text, maxsplit=1)[0]):
        return tables.read_named_table(text, delimiter)
    if names := yaml_names.find_yaml_names(text):
        return documents.read_names({"names": names})
    return tables.read_other_table(text) or lines.read_lines(text)


def _to_labels(rows: Sequence[Row]) -> tuple[Label, ...]:
    """Builds the labels. Checks every value, and that the class indices are exactly 0 to n-1."""
    if not rows:
        raise LabelsError("there are no classes in it", hint=FORMS_HINT)
    indexed = any("class_index" in values for _, values in rows)
    places: dict[int, str] = {}
    labels = []
    for position, (location, values) in enumerate(rows):
        class_index = _check_class_index(values.get("class_index"), location) if indexed else position
        if class_index in places:
            raise LabelsError(
                f"{location}: class index {class_index} is already used by {places[class_index]}",
                hint=_INDEX_HINT,
            )
        places[class_index] = location
        label = _check_text(values.get("label"), "label", location)
        if not label:
            raise LabelsError(f"{location}: the label is empty", hint="every class needs a label")
        synonyms = _check_synonyms(values.get("synonyms", ""), location)
        gloss = _check_text(values.get("gloss", ""), "gloss", location)
        labels.append(Label(class_index, _check_wnid(values.get("wnid", ""), location), label, synonyms, gloss))
    last = max(places)
    if last >= len(rows):
        missing = next(index for index in range(len(rows)) if index not in places)
        raise LabelsError(
            f"class index {missing} is missing: {len(rows)} classes have 0 to {len(rows) - 1}, "
            f"but {places[last]} has {last}",
            hint=_INDEX_HINT,
        )
    return tuple(sorted(labels, key=attrgetter("class_index")))


def _check_class_index(value: object, location: str) -> int:
    number = value.strip() if isinstance(value, str) else short_repr(value)
    if not _CLASS_INDEX.fullmatch(number):
        raise LabelsError(f"{location}: {short_repr(value)} is not a class index", hint=_INDEX_HINT)
    return int(number)


def _check_wnid(value: object, location: str) -> str | None:
    wnid = _check_text(value, "wnid", location)
    if wnid and not _WNID.fullmatch(wnid):
        raise LabelsError(
            f"{location}: {short_repr(value)} is not a WordNet id",
            hint="give an id such as n02099601, or leave it out",
        )
    return wnid or None


def _check_synonyms(value: object, location: str) -> tuple[str, ...]:
    """Reads synonyms from a list of texts, or from one text in which "|" separates them."""
    names = value if isinstance(value, list | tuple) else _check_text(value, "synonyms", location).split("|")
    synonyms = (_check_text(name, "synonyms", location) for name in names)
    return tuple(synonym for synonym in synonyms if synonym)


def _check_text(value: object, column: str, location: str) -> str:
    if not isinstance(value, str) or _SURROGATE.search(value):
        raise LabelsError(f"{location}: the {column} is {short_repr(value)}, not text", hint=FORMS_HINT)
    return value.strip()
