"""Parses the text of a label file, and detects which form it has."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter, itemgetter

from imgclassify.errors import LabelsError, name_type, short_repr
from imgclassify.labels.label_set import Label

MAX_CLASSES = 2**18
"""Files with more classes are rejected."""
MAX_COLUMNS = 1000
"""Files with a header of more columns are rejected."""

_COLUMN_NAMES = {
    "class_index": ("class_index", "class_id", "index", "id"),
    "wnid": ("wnid", "synset"),
    "label": ("label", "name", "class", "class_name"),
    "synonyms": ("synonyms",),
    "gloss": ("gloss", "definition"),
}
_COLUMNS = {name: column for column, names in _COLUMN_NAMES.items() for name in names}

_NEWLINE = re.compile(r"\r\n|\r|\n")
_DOCUMENT = re.compile(r"(?:\s*+#[^\n]*+\n)*+\s*+[\[{]")
_INDEX_FIRST = re.compile(r"([0-9]+)\s*[,:\t]\s*(.*)")
_WNID_FIRST = re.compile(r"([nvars][0-9]{8})(?:[\s,:]\s*|$)(.*)")
# Patterns for a Python list or dict: its strings and comments; what else it may contain (once each string is
# replaced by 0); and what would be an index, a call or a subtraction.
_PYTHON_TEXT = re.compile(
    r"""#[^\n]*+|[bBrRuU]{0,2}(?:'(?!'')(?:[^'\\\n]|\\[\s\S])*+'|"(?!"")(?:[^"\\\n]|\\[\s\S])*+")"""
)
_PYTHON_DATA = re.compile(r"(?:[\s\[\](){},:]|-?\d\w*+(?:\.\d*+)?+|True|False|None)*+")
_PYTHON_CODE = re.compile(r"[\w.\])}]\s*+[\[({-]")
_WNID = re.compile(r"[nvars][0-9]{8}")
_CLASS_INDEX = re.compile(r"[0-9]{1,9}")
# Escapes in JSON and Python can denote half of a surrogate pair, which no output can represent.
_SURROGATE = re.compile("[\ud800-\udfff]")

FORMS_HINT = "docs/labels.md shows all forms that a label file may have"
_INDEX_HINT = "number the classes from 0, each once; if the numbers belong to the labels, use a JSON list"

_Row = tuple[str, Mapping[str, object]]
"""One class as the file gives it: its location in the file ("line 3", "[2]"), and its values by column."""


def parse_labels(text: str, name: str) -> tuple[Label, ...]:
    """Returns the labels in `text`, in class-index order.

    The form is detected from the text alone:

    - If it begins with a bracket, it is JSON or a Python literal. Lines of # comments may precede the bracket.
    - If its first line is a name of the label column, or has several cells and a known column name among them,
      it is CSV or TSV with a header.
    - Otherwise it has one class per line. If every line begins with a class index and a comma, colon or tab,
      these are split off. If every line then begins with a wnid, the wnid is split off too. The rest of the
      line, including commas, is the label.

    Without class indices, the first class is 0. White space around a label is removed.

    Args:
        name: the name of the text in error messages, such as its file's name.

    Raises:
        LabelsError: the text has none of these forms, no classes, a label that is empty or not text, or class
            indices other than 0 to n-1. The message names the line or key and the value.
    """
    text = text.removeprefix("\ufeff")
    try:
        if not text.strip():
            raise LabelsError("there is nothing in it", hint=FORMS_HINT)
        if opening := _DOCUMENT.match(text):
            # Only the line feeds of the comments before the bracket are kept, for the line numbers in errors.
            bracket = opening.end() - 1
            return _to_labels(_document_rows("\n" * text.count("\n", 0, bracket) + text[bracket:]))
        if delimiter := header_delimiter(_NEWLINE.split(text, maxsplit=1)[0]):
            return _to_labels(_table_rows(text, delimiter))
        return _to_labels(_line_rows(text))
    except LabelsError as error:
        raise LabelsError(f"{name}: {error}", hint=error.hint) from error.__cause__


def _require_bounded(count: int) -> None:
    if count > MAX_CLASSES:
        raise LabelsError(f"it has more than {MAX_CLASSES:,} classes", hint=FORMS_HINT)


def _line_rows(text: str) -> list[_Row]:
    lines = [line.strip() for line in _NEWLINE.split(text.rstrip(), MAX_CLASSES + 1)]
    _require_bounded(len(lines))
    if "" in lines:
        raise LabelsError(
            f"line {lines.index('') + 1} is blank",
            hint="remove blank lines and headings: every line must name a class",
        )
    class_indices, labels = _split_off(_INDEX_FIRST, lines)
    wnids, labels = _split_off(_WNID_FIRST, labels)
    if wnids and not any(labels):  # the lines contain only wnids
        labels = wnids
    if class_indices:
        labels = [_strip_quotes(label) for label in labels]
    columns = {"class_index": class_indices, "wnid": wnids, "label": labels}
    return [
        (f"line {number}", {column: values[number - 1] for column, values in columns.items() if values})
        for number in range(1, len(lines) + 1)
    ]


def _split_off(head: re.Pattern[str], texts: list[str]) -> tuple[list[str] | None, list[str]]:
    """Splits each text into its head and the rest. Returns (None, texts) unless every text has a head."""
    matches = [match for text in texts if (match := head.fullmatch(text))]
    if len(matches) < len(texts):
        return None, texts
    return [match[1] for match in matches], [match[2] for match in matches]


def _strip_quotes(cell: str) -> str:
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if quoted else cell


def header_delimiter(first_line: str) -> str | None:
    """Returns the delimiter of the column names in `first_line`, or None if the line is not a header."""
    for delimiter in "\t,;":
        cells = first_line.split(delimiter, MAX_COLUMNS)
        columns = [_column_name(cell.strip().strip('"')) for cell in cells[:MAX_COLUMNS]]
        if len(cells) > MAX_COLUMNS and any(columns):
            raise LabelsError(f"line 1 has more than {MAX_COLUMNS:,} columns", hint=FORMS_HINT)
        if columns == ["label"] or (len(columns) > 1 and any(columns)):
            return delimiter
    return None


def _table_rows(text: str, delimiter: str) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [(f"line {reader.line_num}", cells) for cells in islice(reader, MAX_CLASSES + 2)]
    except csv.Error as error:
        raise LabelsError(f"line {reader.line_num}: {error}", hint=FORMS_HINT) from error
    # Blank lines at the end are dropped, but a line of empty cells is a class with an empty label.
    while not "".join(rows[-1][1]).strip() and len(rows[-1][1]) < 2:
        rows.pop()
    (location, names), *rows = rows
    _require_bounded(len(rows))
    columns = _find_columns(names, location)
    for location, cells in rows:
        if len(cells) != len(names):
            raise LabelsError(
                f"{location} has {len(cells)} columns, the header has {len(names)}",
                hint=f'put a value that contains {delimiter!r} in double quotes: "tench, Tinca tinca"',
            )
    return [(location, {column: cells[place] for column, place in columns.items()}) for location, cells in rows]


def _find_columns(names: Sequence[object], location: str) -> dict[str, int]:
    """Returns the position of each known column in `names`. Unknown names are ignored."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        column = _column_name(name)
        if column in places:
            raise LabelsError(
                f"{location}: {names[places[column]]!r} and {name!r} both name the {column}",
                hint="keep one of the two",
            )
        if column:
            places[column] = place
    if "label" not in places:
        raise LabelsError(
            f"{location}: none of {short_repr(list(names))} names the label",
            hint=f"call it one of {', '.join(_COLUMN_NAMES['label'])}",
        )
    return places


def _column_name(name: object) -> str | None:
    return _COLUMNS.get(str(name).strip().casefold().replace(" ", "_"))


def _document_rows(text: str) -> list[_Row]:
    document = _parse_document(text.rstrip())
    if isinstance(document, list | dict):
        _require_bounded(len(document))
    if isinstance(document, list):
        return [(f"[{place}]", _class_values(value, f"[{place}]")) for place, value in enumerate(document)]
    if not isinstance(document, dict):
        raise LabelsError(f"it is {name_type(document)}, not a list or a dict", hint=FORMS_HINT)
    keyed = [(f"[{short_repr(key)}]", key, value) for key, value in document.items()]
    # {"cat": 0}, like Keras's class_indices and torchvision's class_to_idx. A label is never a number.
    if all(type(value) is int for value in document.values()):
        return [(location, {"class_index": value, "label": key}) for location, key, value in keyed]
    return [(location, {**_class_values(value, location), "class_index": key}) for location, key, value in keyed]


def _class_values(value: object, location: str) -> dict[str, object]:
    """Returns the columns of one class in a document: a label, [wnid, label], or an object by column name."""
    if isinstance(value, dict):
        values = list(value.values())
        places = _find_columns(list(value), location)
        return {column: values[place] for column, place in places.items() if values[place] is not None}
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise LabelsError(
                f"{location} has {len(value)} values: {short_repr(value)}", hint="give a wnid and a label"
            )
        return {"wnid": value[0], "label": value[1]}
    return {"label": value}


def _parse_document(text: str) -> object:
    """Returns the value of the JSON document or Python literal in `text`. No code is run."""
    failures = []
    for evaluate in (_parse_json, _parse_python):
        try:
            return evaluate(text)
        except (json.JSONDecodeError, SyntaxError) as error:
            failures.append((error.lineno or 1, error.msg))
        except (ValueError, TypeError, RecursionError, MemoryError):
            failures.append((1, "it contains more than plain values"))
    # The file was meant for the parser that got further.
    line, problem = max(failures, key=itemgetter(0))
    raise LabelsError(f"line {line}: neither JSON nor a Python list or dict: {problem}", hint=FORMS_HINT)


def _parse_json(text: str) -> object:
    def to_dict(pairs: list[tuple[str, object]]) -> dict[str, object]:
        _require_unique(key for key, _ in pairs)
        return dict(pairs)

    return json.loads(text, object_pairs_hook=to_dict)


def _parse_python(text: str) -> object:
    # Given code, Python's parser may need gigabytes or run for ever. Given data, it needs 1000 bytes per value.
    skeleton = _PYTHON_TEXT.sub(" 0 ", text)
    if not _PYTHON_DATA.fullmatch(skeleton) or _PYTHON_CODE.search(skeleton):
        raise ValueError("it does not consist of text and numbers only")
    if skeleton.count(",") > 2 * MAX_CLASSES:
        raise LabelsError(f"it has more than {2 * MAX_CLASSES:,} values", hint="save it as JSON")
    expression = ast.parse(text, mode="eval").body
    document: object = ast.literal_eval(expression)
    if isinstance(expression, ast.Dict):
        _require_unique(ast.literal_eval(key) for key in expression.keys if key)
    return document


def _require_unique(keys: Iterable[Hashable]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise LabelsError(f"the key {short_repr(key)} occurs twice", hint="keep one entry per class")
        seen.add(key)


def _to_labels(rows: list[_Row]) -> tuple[Label, ...]:
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
