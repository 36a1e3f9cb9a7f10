"""Names the kinds of file that are met in the place of another one: archives, documents, pointers, error pages.

Only the first bytes are looked at. Formats of images and of models have tables of their own, where they are read.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

HEAD_BYTES = 4096
"""How many of the first bytes `find_kind` needs."""

_SHOWN = 60
"""The number of characters of a text that a name shows."""


class FileKind(NamedTuple):
    """A kind of file."""

    name: str
    """What the file is, with its article."""
    advice: str
    """What to do to get the file that was wanted."""


_FETCH = "fetch the file again"
_UNPACK = "unpack it"

_BINARY = tuple(
    (re.compile(pattern, re.DOTALL), FileKind(name, advice))
    for pattern, name, advice in (
        (rb"\x1f\x8b", "a gzip file, which is compressed", _UNPACK),
        (rb"BZh[1-9]", "a bzip2 file, which is compressed", _UNPACK),
        (rb"\xfd7zXZ\0", "an xz file, which is compressed", _UNPACK),
        (rb"\x28\xb5\x2f\xfd", "a zstd file, which is compressed", _UNPACK),
        (rb"\x04\x22\x4d\x18", "an lz4 file, which is compressed", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive, or a document that is one", _UNPACK),
        (rb".{257}ustar", "a tar archive", _UNPACK),
        (rb"MSCF\0{4}", "a cabinet archive", _UNPACK),
        (rb"%PDF", "a PDF document", "extract its images, or convert its pages to PNG"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document", "convert it to PNG"),
        (rb"\{\\rtf", "an RTF document", _FETCH),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document, Thumbs.db or another OLE file", "leave it out"),
        (
            rb"\0\x05\x16[\0\x07]\0",
            "an AppleDouble file, the metadata that macOS keeps of another file",
            "leave it out",
        ),
        (rb"SQLite format 3\0", "an SQLite database", _FETCH),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "save its images as PNG"),
        (rb"\x93NUMPY", "a NumPy array", "save it as PNG"),
        (rb"PAR1", "a Parquet file", "save its images as files"),
        (rb"ID3|fLaC|RIFF.{4}WAVE", "an audio file", "leave it out"),
        (rb"\x7fELF|MZ.{58}.{2}\0\0", "a program", "leave it out"),
        (rb"\0{64}", "a file that begins with nothing but zeros, as an incomplete download does", _FETCH),
    )
)
"""(pattern at the beginning, kind) of files that are not text."""

_TEXTS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), FileKind(name, advice))
    for pattern, name, advice in (
        (
            r"version https://git-lfs\.github\.com/",
            "a Git LFS pointer, not the file that it stands for",
            "fetch the file: `git lfs pull`",
        ),
        (
            r"(/annex/objects/|(\.\./)*\.git/annex/)",
            "a git-annex pointer, not the file that it stands for",
            "fetch the file: `git annex get FILE`",
        ),
        (
            r"outs:\s+-",
            "a DVC pointer, not the file that it stands for",
            "fetch the file: `dvc pull`",
        ),
        (
            r"<.*?(<|!doctype )html\b|<html\b",
            "an HTML page, such as a login page or an error page that was saved in place of a file",
            _FETCH,
        ),
        (r"<\?xml\b|<\w+[\s>]", "an XML document, such as a server's error message", _FETCH),
        (r'\{\s*["}]|\[\s*["\[{]', "a JSON document, such as a server's error message", _FETCH),
        (r"data:image/", "a data: URL as text", "decode its base64 into a file"),
    )
)
"""(pattern at the beginning, kind) of text files."""


def find_kind(head: bytes) -> FileKind | None:
    """Returns the kind of a file that begins with these bytes, or None if they tell nothing.

    Args:
        head: the first HEAD_BYTES bytes, or the whole of a smaller file.
    """
    found = next((kind for pattern, kind in _BINARY if pattern.match(head)), None)
    if found or (text := decode_text(head)) is None:
        return found
    found = next((kind for pattern, kind in _TEXTS if pattern.match(text)), None)
    return found or FileKind(f"a text file, which begins with {text.splitlines()[0][:_SHOWN]!r}", _FETCH)


def decode_text(head: bytes) -> str | None:
    """Returns the first bytes of a file as text, without white space around it, or None if they are not text."""
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    # The last character may be cut off.
    text = head.decode("utf-16" if is_utf16 else "utf-8-sig", "replace").removesuffix("\ufffd").strip()
    if not text or any(not character.isprintable() and character not in "\t\n\r\f" for character in text):
        return None
    return None if "\ufffd" in text else text
