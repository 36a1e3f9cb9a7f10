"""Makes names of files and folders that Linux, macOS and Windows allow."""

from __future__ import annotations

import os
import re
import unicodedata

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
"""Characters that Windows does not allow. The other systems allow all but the slash."""

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, also with any extension."""

_LONGEST_SAFE = 120
"""Longest safe name in bytes. Systems allow 255, and Windows allows 260 characters for a whole path."""
_LONGEST = 255


def safe_name(text: str) -> str:
    """Returns text as the name of a file or folder that every system allows, and that is not hidden.

    Different texts may become the same name.
    """
    words = " ".join(unicodedata.normalize("NFC", text).split())
    name = "".join(each if each.isprintable() else "_" for each in _FORBIDDEN.sub("_", words))
    name = _cut(name, _LONGEST_SAFE).rstrip(". ")
    if name.startswith("."):
        name = "_" + name[1:]
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def fold_name(name: str) -> str:
    """Returns the same text for names that are one name where case and Unicode normalisation do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def number_name(name: str, number: int) -> str:
    """Returns the name of a file for the second, third and further file of that name: "a (2).jpg"."""
    if number == 1:
        return name
    stem, extension = os.path.splitext(name)  # noqa: PTH122 - only a name
    suffix = f" ({number}){extension}"
    return _cut(stem, _LONGEST - len(os.fsencode(suffix))) + suffix


def _cut(text: str, limit: int) -> str:
    """Cuts text to at most `limit` bytes, between characters."""
    text = text[:limit]
    while len(text.encode(errors="surrogateescape")) > limit:
        text = text[:-1]
    return text
