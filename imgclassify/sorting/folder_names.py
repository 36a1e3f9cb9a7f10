"""Names folders after classes. The names are distinct on every system."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from imgclassify.file_names import fold_name, safe_name
from imgclassify.results import Prediction

ClassKey: TypeAlias = "str | tuple[int, str]"
"""Identifies a class: its wnid, else its index and label."""


def class_key(prediction: Prediction) -> ClassKey:
    return prediction.wnid or (prediction.class_index, prediction.label)


def name_folders(classes: Iterable[Prediction]) -> dict[ClassKey, str]:
    """Returns a folder name for each class, from its label.

    Classes whose names are the same, or differ only in case, get their wnid or class index as a suffix.
    """
    labels: dict[ClassKey, Prediction] = {}
    for each in sorted(classes, key=lambda each: (each.class_index, each.label)):
        labels.setdefault(class_key(each), each)
    same_name: dict[str, list[ClassKey]] = defaultdict(list)
    for key, each in labels.items():
        same_name[fold_name(safe_name(each.label))].append(key)
    names: dict[ClassKey, str] = {}
    taken = {folded for folded, keys in same_name.items() if len(keys) == 1}
    for folded, keys in same_name.items():
        for key in keys:
            each = labels[key]
            name = safe_name(each.label)
            suffix = each.wnid or str(each.class_index)
            while len(keys) > 1 and (fold_name(name) == folded or fold_name(name) in taken):
                name = f"{name} ({suffix})"
            names[key] = name
            taken.add(fold_name(name))
    return names
