"""Finds the names of classes in YAML, such as the data.yaml of Ultralytics. Reads plain lists and dicts only."""

from __future__ import annotations

import json
import re

from imgclassify.errors import LabelsError, short_repr
from imgclassify.labels.rows import MAX_CLASSES, NEWLINE, require_bounded

_OPENING = re.compile(r"(?:[ \t]*+(?:#[^\r\n]*+|---[ \t]*+)?[\r\n])*+(?:- |[A-Za-z_][\w-]*+\s*+:(?:\s|$))")
"""Comments, then the first item of a list or the first key of a dict."""
_MAX_LINES = MAX_CLASSES + 1000
_NAMES_KEY = re.compile(r"(names|class_names|classes|labels|id2label)\s*:\s*(?:#.*)?([\[{].*)?")
_ITEM = re.compile(r"\s*-\s+(?P<value>\S.*)")
_ENTRY = re.compile(r"\s*(?P<key>[0-9]+|'[0-9]+'|\"[0-9]+\")\s*:\s+(?P<value>\S.*)")
_FLOW_ITEM = re.compile(
    r"""\s*+(?P<item>(?:['"]?[0-9]++['"]?\s*+:\s++)?+(?:'(?:[^']|'')*+'|"(?:[^"\\]|\\.)*+"|[^'"\s,\[\]{}][^,\[\]{}]*+)?+)"""
    r"""\s*+(?P<separator>[,\]}])"""
)
_COMMENT = re.compile(r"""\s#[^'"]*+$""")
_INDICATORS = tuple("&*!|>%@`[]{},?")
"""A plain text does not begin with one of these: they have a meaning in YAML."""
_HINT = "save the names as JSON, or as one label per line"

_Names = list[object] | dict[object, object]


def find_yaml_names(text: str) -> _Names | None:
    """Returns the list or dict of names in a YAML document, or None if the text is no such document.

    The document is a list of texts, or has one under `names` or a similar key. A dict has class indices as keys.

    Raises:
        LabelsError: the names are written in a way that is not read, such as with anchors.
    """
    if not _OPENING.match(text):
        return None
    split = NEWLINE.split(text, _MAX_LINES)
    lines = [(number, line) for number, line in enumerate(split, 1) if _has_content(line)]
    if all(line.startswith("- ") for _, line in lines):
        return _parse_block(lines)
    for place, (number, line) in enumerate(lines):
        if not (found := _NAMES_KEY.fullmatch(line.rstrip())):
            continue
        below = lines[place + 1 :]
        if found[2]:
            return _parse_flow(
                " ".join(_COMMENT.sub("", line) for line in (found[2], *(line for _, line in below))), number
            )
        if inner := _take_indented(below):
            return _parse_block(inner)
    return None


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#") and line.strip() not in ("---", "...")


def _take_indented(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Returns the lines before the next key of the document."""
    for place, (_, line) in enumerate(lines):
        if not line.startswith((" ", "\t", "- ")):
            return lines[:place]
    return lines


def _parse_block(lines: list[tuple[int, str]]) -> _Names:
    require_bounded(len(lines))
    names: dict[object, object] = {}
    pattern = _ITEM if _ITEM.fullmatch(lines[0][1]) else _ENTRY
    for place, (number, line) in enumerate(lines):
        if not (match := pattern.fullmatch(line.rstrip())):
            raise _not_plain(number, line)
        key = match["key"].strip("'\"") if pattern is _ENTRY else place
        if key in names:
            raise LabelsError(
                f"line {number}: the key {short_repr(key)} occurs twice", hint="keep one entry per class"
            )
        names[key] = _parse_text(match["value"], number)
    return names if pattern is _ENTRY else list(names.values())


def _parse_flow(text: str, number: int) -> _Names:
    """Parses a list or dict in brackets, whose items may be without quotes."""
    prefix, end = ("- ", "]") if text[0] == "[" else ("", "}")
    items: list[tuple[int, str]] = []
    place, separator = 1, ","
    while separator == ",":
        if not (match := _FLOW_ITEM.match(text, place)) or match["separator"] not in (",", end):
            raise _not_plain(number, text)
        place, separator = match.end(), match["separator"]
        if match["item"]:
            items.append((number, f"{prefix}{match['item']}"))
            require_bounded(len(items))
    if not items:
        raise LabelsError(f"line {number}: there are no classes in it", hint=_HINT)
    return _parse_block(items)


def _parse_text(text: str, number: int) -> str:
    text = text.strip()
    try:
        if double := re.fullmatch(r'("(?:[^"\\]|\\.)*+")(?:\s+#.*)?', text):
            return str(json.loads(double[1]))
    except ValueError as error:
        raise _not_plain(number, text) from error
    if single := re.fullmatch(r"'((?:[^']|'')*+)'(?:\s+#.*)?", text):
        return single[1].replace("''", "'")
    plain = re.split(r"\s#", text, maxsplit=1)[0].rstrip()
    if plain.startswith((*_INDICATORS, "'", '"')) or re.search(r":(?:\s|$)", plain):
        raise _not_plain(number, text)
    return plain


def _not_plain(number: int, text: str) -> LabelsError:
    return LabelsError(
        f"line {number}: {short_repr(text.strip())} is not a plain YAML list or dict of class names",
        hint=_HINT,
    )
