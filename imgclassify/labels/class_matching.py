"""Finds the classes that two label sets share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from imgclassify.labels.label_set import Label, LabelSet


def match_classes(first: LabelSet, second: LabelSet) -> dict[int, int]:
    """Returns the classes that are in both label sets: class index in `first` → class index in `second`.

    Classes are the same if their wnids are, or if one of them has no wnid and their labels are the same. Case,
    underscores and spaces at the ends do not count. A label that a set has twice matches nothing, because it is not
    known which class is meant. But if the sets have the same labels in the same order, all their classes match.
    """
    pairs = list(zip(first.labels, second.labels, strict=False))
    if len(first) == len(second) and all(_name(a) == _name(b) and not _differ(a, b) for a, b in pairs):
        return {index: index for index in range(len(first))}
    shared: dict[int, int] = {}
    for key in (_wnid, _name):
        found = _by_key(second, key)
        taken = set(shared.values())
        for text, label in _by_key(first, key).items():
            match = found.get(text)
            if match is None or label.class_index in shared or match.class_index in taken or _differ(label, match):
                continue
            shared[label.class_index] = match.class_index
    return shared


def _by_key(label_set: LabelSet, key: Callable[[Label], str]) -> dict[str, Label]:
    """Returns the labels by their keys, without those that have none or share it with another label."""
    counts = Counter(map(key, label_set.labels))
    return {text: label for label in label_set.labels if (text := key(label)) and counts[text] == 1}


def _wnid(label: Label) -> str:
    return label.wnid or ""


def _name(label: Label) -> str:
    return " ".join(label.label.replace("_", " ").casefold().split())


def _differ(first: Label, second: Label) -> bool:
    """Whether both have a wnid, and not the same."""
    return bool(first.wnid and second.wnid and first.wnid != second.wnid)
