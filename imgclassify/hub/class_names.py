"""Finds class names in the values that describe a model: lists, dictionaries, and texts as in label files."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from imgclassify import labels as label_sets
from imgclassify.checkpoints import entries_of, to_plain
from imgclassify.errors import LabelsError
from imgclassify.labels import Label
from imgclassify.labels.parsing import parse_labels

_THING = r"(class(es)?|cls|labels?|names?|categor(y|ies)|cat|targets?)"
_NUMBER = r"(idx|ind(ex|ices)|ids?|ints?|num)"
_KEYS = (
    rf"{_THING}_?(to|2)_?{_NUMBER}|{_NUMBER}_?(to|2)_?{_THING}",  # class_to_idx, id2label
    rf"{_THING}_?names?|classes",
    rf"names|labels|categories|(output_)?{_THING}_?(labels?|list|{_NUMBER}|maps?|mapping|dict)|output_labels|vocab",
)
"""Patterns of keys of class names, in lower case and without the part before a dot, the first preferred."""
_MAX_KEYS = 32
"""Entries of a mapping that are read as class names."""
_WNID = re.compile(r"n\d{8}")
_MAX_CLASSES = 10**6
_MAX_TEXT = 2**23
"""The number of characters of a text with class names."""
_SEPARATORS = "\t;|,"
"""What separates names in a text of one line, the most certain first."""


def find_class_names(values: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Label, ...]]]:
    """Yields (key, classes) for each entry of a mapping that holds class names, the likeliest first."""
    # scikit-learn's attributes end with an underscore.
    by_key = {name.rpartition(".")[2].lower().rstrip("_"): name for name in values}
    matches = (by_key[key] for pattern in _KEYS for key in by_key if re.fullmatch(pattern, key))
    for name in islice(matches, _MAX_KEYS):
        if found := parse_class_names(values[name]):
            yield name, found


def possible_counts(num_outputs: int) -> Collection[int]:
    """Returns how many names the classes of a network may have. A single output may have those of both classes."""
    return (1, 2) if num_outputs == 1 else (num_outputs,)


def parse_class_names(value: Any) -> tuple[Label, ...] | None:
    """Returns classes in class-index order, or None if the value does not hold any.

    Args:
        value: a list of names, a dictionary from names to indices or from indices to names, or the text of either:
            JSON, Python, one name per line, or names with commas between them.
    """
    if isinstance(value, str):
        return _parse_text(value.strip())
    value = to_plain(value)
    entries = entries_of(value)
    names = _parse_items(value) if entries is None else _parse_named_indices(entries)
    return name_classes(names) if names else None


def name_classes(names: Sequence[str]) -> tuple[Label, ...]:
    """Returns the names as labels. WordNet ids, which are the folders of ImageNet, become the names of classes."""
    if not all(map(_WNID.fullmatch, names)):
        return tuple(Label(index, None, name) for index, name in enumerate(names))
    known = {label.wnid: label for label in label_sets.load_labels("imagenet1k").labels}
    return tuple(
        replace(known[name], class_index=index) if name in known else Label(index, name, name)
        for index, name in enumerate(names)
    )


def _parse_text(text: str) -> tuple[Label, ...] | None:
    if not text or len(text) > _MAX_TEXT:
        return None
    if text[0] == "(" and text[-1] == ")":  # a Python tuple
        text = f"[{text[1:-1]}]"
    if text[0] not in "[{" and "\n" not in text:
        separator = next((each for each in _SEPARATORS if each in text), None)
        if separator is None:
            return None  # a single word may be anything, such as the name of a file
        names = [name.strip().strip("\"'") for name in text.rstrip(separator).split(separator)]
        return name_classes(names) if all(names) else None
    try:
        found = parse_labels(text, "")
    except LabelsError:
        return None
    return name_wnids(found)


def name_wnids(found: tuple[Label, ...]) -> tuple[Label, ...]:
    """Returns the classes with the names of their WordNet ids, if these are all that is known of them."""
    if all(label.wnid in (None, label.label) and not label.synonyms and not label.gloss for label in found):
        return name_classes([label.label for label in found])
    return found


def _parse_items(value: Any) -> list[str] | None:
    items = value if isinstance(value, list | tuple) else getattr(value, "items", None)
    if not isinstance(items, list | tuple) or not 0 < len(items) <= _MAX_CLASSES:
        return None
    return list(items) if all(isinstance(name, str) and name.strip() for name in items) else None


def _parse_named_indices(entries: Mapping[Any, Any]) -> list[str] | None:
    pairs = [
        (index, name) for pair in entries.items() for index, name in (pair, pair[::-1]) if _is_class(index, name)
    ]
    by_index = {int(index): name for index, name in pairs}
    if not pairs or not len(pairs) == len(by_index) == len(entries):
        return None
    if by_index.keys() != set(range(len(by_index))):
        return None
    return [by_index[index] for index in range(len(by_index))]


def _is_class(index: Any, name: Any) -> bool:
    """Whether a pair is an index, which JSON has as text, and a name."""
    if not isinstance(name, str) or not name.strip():
        return False
    if isinstance(index, int) and not isinstance(index, bool):
        return 0 <= index < _MAX_CLASSES
    return isinstance(index, str) and re.fullmatch(r"\d{1,6}", index) is not None and not name.isdigit()
