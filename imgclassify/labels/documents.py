"""Reads JSON, Python literals and the `names:` of YAML: lists and dicts of labels, and a model's config.json."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from operator import itemgetter

from imgclassify.errors import LabelsError, name_type, short_repr
from imgclassify.labels.columns import (
    FOLDERS,
    ORDER_HINT,
    WNID,
    counted_from_one,
    find_columns,
    find_named_columns,
    find_start,
    find_unnamed_columns,
    is_number,
    keys_without_zero,
)
from imgclassify.labels.rows import FORMS_HINT, MAX_CLASSES, Row, Rows, require_bounded

_OPENING = re.compile(r"(?:\s*+#[^\n]*+\n)*+\s*+[\[{]")

# Patterns for a Python list or dict: its strings and comments; what else it may contain (once each string is
# replaced by 0); and what would be an index, a call or a subtraction.
_PYTHON_TEXT = re.compile(
    r"""#[^\n]*+|[bBrRuU]{0,2}(?:'(?!'')(?:[^'\\\n]|\\[\s\S])*+'|"(?!"")(?:[^"\\\n]|\\[\s\S])*+")"""
)
_PYTHON_DATA = re.compile(r"(?:[\s\[\](){},:]|-?\d\w*+(?:\.\d*+)?+|True|False|None)*+")
_PYTHON_CODE = re.compile(r"[\w.\])}]\s*+[\[({-]")

_NAMES_KEYS = (
    "id2label",
    "label_names",
    "class_to_idx",
    "class_indices",
    "label2id",
    "class_names",
    "names",
    "classes",
    "labels",
    "categories",
)
"""Entries that hold the names of the classes, in the config.json of transformers and timm and in similar files."""
_NESTED_KEYS = ("pretrained_cfg",)
"""Entries with a dictionary that may hold such an entry."""


def find_document(text: str) -> str | None:
    """Returns the text from its first bracket on, or None if it does not begin with one.

    Lines of # comments may precede the bracket. Only their line feeds are kept, for the line numbers in errors.
    """
    if not (opening := _OPENING.match(text)):
        return None
    bracket = opening.end() - 1
    return "\n" * text.count("\n", 0, bracket) + text[bracket:]


def read_document(text: str) -> Rows:
    """Reads a JSON document or a Python literal. No code is run.

    Raises:
        LabelsError: it is neither, or it does not say which label belongs to which class.
    """
    document = _parse(text.rstrip())
    if not isinstance(document, list | dict):
        raise LabelsError(f"it is {name_type(document)}, not a list or a dict", hint=FORMS_HINT)
    return read_names(document)


def read_names(document: list[object] | dict[object, object]) -> Rows:
    """Reads a list or a dict of labels, or a dict with an entry that is one."""
    if isinstance(document, dict) and (found := _find_names(document)):
        prefix, names, descriptions = found
        rows, note = _read_classes(names, prefix)
        return Rows([(place, _describe(values, descriptions)) for place, values in rows], note)
    return _read_classes(document, "")


def _find_names(
    document: dict[object, object],
) -> tuple[str, list[object] | dict[object, object], Mapping[object, object]] | None:
    """Returns the location of the names in a configuration, the names, and timm's description of each name."""
    nested = [(f"[{key!r}]", document.get(key)) for key in _NESTED_KEYS]
    for prefix, holder in [("", document), *nested]:
        if not isinstance(holder, dict):
            continue
        for key in _NAMES_KEYS:
            names = holder.get(key)
            if isinstance(names, list | dict) and names:
                descriptions = holder.get("label_descriptions")
                return f"{prefix}[{key!r}]", names, descriptions if isinstance(descriptions, dict) else {}
    if any(isinstance(value, list | dict) for value in document.values()) and not any(map(_is_key, document)):
        raise LabelsError(
            f"it has no names of classes: none of its entries is {', '.join(_NAMES_KEYS)}, and its keys, such as "
            f"{short_repr(next(iter(document)))}, are not class indices",
            hint=ORDER_HINT,
        )
    return None


def _is_key(key: object) -> bool:
    return is_number(key) or (isinstance(key, str) and WNID.fullmatch(key) is not None)


def _describe(values: Mapping[str, object], descriptions: Mapping[object, object]) -> Mapping[str, object]:
    """Puts timm's description of a class in the place of its wnid."""
    name = values.get("label")
    if not isinstance(name, str) or not WNID.fullmatch(name) or name not in descriptions:
        return values
    return {**values, "wnid": name, "label": descriptions[name]}


def _read_classes(document: list[object] | dict[object, object], prefix: str) -> Rows:
    require_bounded(len(document))
    if isinstance(document, dict):
        return Rows(_read_mapping(document, prefix))
    rows = [(f"{prefix}[{place}]", value) for place, value in enumerate(document)]
    names = list(document[0]) if document and isinstance(document[0], dict) else []
    if names and all(isinstance(value, dict) and list(value) == names for value in document):
        return _read_table(
            [(place, list(value.values())) for place, value in rows if isinstance(value, dict)], names
        )
    if _are_pairs(document):
        cells = [value for value in document if isinstance(value, list | tuple)]
        if columns := find_unnamed_columns(cells):
            if columns.first_index == 1:
                raise counted_from_one(len(cells), has_lines=False)
            return Rows([(place, columns.pick(row)) for (place, _), row in zip(rows, cells, strict=True)])
    return Rows([(place, _class_values(value, place)) for place, value in rows])


def _read_table(rows: list[tuple[str, list[object]]], names: list[object]) -> Rows:
    """Reads objects that all have the same keys."""
    columns = find_columns(names, [cells for _, cells in rows], rows[0][0])
    picked = ((place, columns.pick(cells)) for place, cells in rows)
    return Rows(
        [
            (place, {column: value for column, value in values.items() if value is not None or column == "label"})
            for place, values in picked
        ],
        columns.note,
    )


def _are_pairs(values: Sequence[object]) -> bool:
    """Whether the values are pairs of a label and a number, which is not in quotes."""
    return bool(values) and all(
        isinstance(value, list | tuple) and len(value) == 2 and {type(value[0]), type(value[1])} == {int, str}
        for value in values
    )


def _read_mapping(document: dict[object, object], prefix: str) -> list[Row]:
    """Reads a dict from class indices to classes, from labels to class indices, or from wnids to labels."""
    keyed = [(f"{prefix}[{short_repr(key)}]", key, value) for key, value in document.items()]
    # {"cat": 0}, like Keras's class_indices and torchvision's class_to_idx. A label is never a number.
    are_keys_numbers = all(map(is_number, document))
    if keyed and (
        all(type(value) is int for value in document.values())
        or (not are_keys_numbers and all(map(is_number, document.values())))
    ):
        if all(map(is_number, document.values())) and find_start(_to_numbers(document.values())) == 1:
            raise counted_from_one(len(document), has_lines=False)
        return [(location, {"class_index": value, "label": key}) for location, key, value in keyed]
    if keyed and are_keys_numbers and find_start(numbers := _to_numbers(document)) != 0 and 0 not in numbers:
        raise keys_without_zero(list(document), numbers)
    if keyed and all(isinstance(key, str) and WNID.fullmatch(key) for key in document):
        if list(document) != sorted(map(str, document)):
            raise LabelsError(
                "its keys are wnids, but not in their order, so the order of the classes is unknown",
                hint=ORDER_HINT,
            )
        return [(location, {"wnid": key, "label": value}) for location, key, value in keyed]
    for location, key, value in keyed:
        if isinstance(key, str) and isinstance(value, str) and not is_number(key):
            raise LabelsError(
                f"{location}: {short_repr(key)} is not a class index", hint=f"{FOLDERS}; {ORDER_HINT}"
            )
    return [(location, {**_class_values(value, location), "class_index": key}) for location, key, value in keyed]


def _to_numbers(cells: Iterable[object]) -> list[int]:
    return [int(str(cell)) for cell in cells]


def _class_values(value: object, location: str) -> dict[str, object]:
    """Returns the columns of one class in a document: a label, [wnid, label], or an object by column name."""
    if isinstance(value, dict):
        values = list(value.values())
        places = find_named_columns(list(value), location)
        return {column: values[place] for column, place in places.items() if values[place] is not None}
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise LabelsError(
                f"{location} has {len(value)} values: {short_repr(value)}", hint="give a wnid and a label"
            )
        return {"wnid": value[0], "label": value[1]}
    return {"label": value}


def _parse(text: str) -> object:
    """Returns the value of the JSON document or Python literal in `text`."""
    failures = []
    parsers: tuple[Callable[[str], object], ...] = (_parse_json, _parse_python)
    for evaluate in parsers:
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
