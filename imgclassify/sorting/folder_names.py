"""Names folders after classes, and files: names that every system allows, and that are distinct on all of them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from imgclassify.results import Prediction

ClassKey: TypeAlias = "str | tuple[int, str]"
"""Identifies a class: its wnid, else its index and label."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
"""Characters that Windows does not allow. The other systems allow all but the slash."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, also with any extension."""

_LONGEST_FOLDER = 120
"""Longest folder name in bytes. Systems allow 255, and Windows allows 260 characters for a whole path."""
_LONGEST_FILE = 255


def class_key(prediction: Prediction) -> ClassKey:
    return prediction.wnid or (prediction.class_index, prediction.label)


def fold_name(name: str) -> str:
    """Returns the same text for names that are one name where case and Unicode normalisation do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


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


def safe_name(label: str) -> str:
    """Returns a label as the name of a folder that Linux, macOS and Windows allow, and that is not hidden."""
    words = " ".join(unicodedata.normalize("NFC", label).split())
    name = "".join(each if each.isprintable() else "_" for each in _FORBIDDEN.sub("_", words))
    name = _cut(name, _LONGEST_FOLDER).rstrip(". ")
    if name.startswith("."):
        name = "_" + name[1:]
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def number_name(name: str, number: int) -> str:
    """Returns the name of a file for the second, third and further file of that name: "a (2).jpg"."""
    if number == 1:
        return name
    stem, extension = os.path.splitext(name)  # noqa: PTH122 - only a name
    suffix = f" ({number}){extension}"
    return _cut(stem, _LONGEST_FILE - len(os.fsencode(suffix))) + suffix


def _cut(text: str, limit: int) -> str:
    """Cuts text to at most `limit` bytes, between characters."""
    text = text[:limit]
    while len(text.encode(errors="surrogateescape")) > limit:
        text = text[:-1]
    return text
