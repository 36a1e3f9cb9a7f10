"""Decodes the bytes of a label file. Names what is not text: arrays, pickles, spreadsheets, documents."""

from __future__ import annotations

import codecs
from typing import NamedTuple

from imgclassify.errors import LabelsError

LABEL_FILE = "label file"
_SAVE_TABLE = "save the table as CSV with UTF-8"
_SAVE_LIST = "load it in Python where you trust it, and save the names as JSON: json.dump(names, file)"
_SAVE_SHEET = "save the table as CSV with UTF-8, with a header such as index,label"
_SAVE_TEXT = "copy the labels into a text file, one per line, in the order of the network's outputs"
_GIVE_LABELS = "--labels takes the names of the classes: a text file with one label per line, in class-index order"


class _Kind(NamedTuple):
    """A kind of file that is not a label file."""

    beginning: bytes
    name: str
    hint: str
    contains: bytes = b""
    """Bytes that are somewhere in the file."""


_KINDS = (
    _Kind(b"\x93NUMPY", "a NumPy array (.npy) of Python objects", _SAVE_LIST, b"'descr': '|O'"),
    _Kind(b"\x93NUMPY", "a NumPy array (.npy)", "in Python: json.dump(numpy.load(path).tolist(), file)"),
    _Kind(b"PK\x03\x04", "an Excel file (.xlsx)", _SAVE_SHEET, b"xl/"),
    _Kind(b"PK\x03\x04", "a Word file (.docx)", _SAVE_TEXT, b"word/"),
    _Kind(b"PK\x03\x04", "an OpenDocument file", _SAVE_TEXT, b"application/vnd.oasis.opendocument"),
    _Kind(b"PK\x03\x04", "a PyTorch file", f"it may have the weights; {_GIVE_LABELS}", b"/data.pkl"),
    _Kind(b"PK\x03\x04", "NumPy arrays (.npz)", _SAVE_LIST, b".npy"),
    _Kind(b"PK\x03\x04", "a ZIP archive", "unpack it, and give the label file in it"),
    _Kind(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file", _SAVE_SHEET),
    _Kind(b"%PDF-", "a PDF file", _SAVE_TEXT),
    _Kind(b"{\\rtf", "an RTF file", _SAVE_TEXT),
    *(_Kind(bytes([0x80, protocol]), "a Python pickle (.pkl)", _SAVE_LIST) for protocol in range(2, 6)),
    *(
        _Kind(beginning, "a Python pickle (.pkl)", _SAVE_LIST)
        for beginning in (b"(lp0\n", b"(dp0\n", b"cnumpy.", b"ccollections\n", b"c__builtin__\n", b"]q\0", b"}q\0")
    ),
    _Kind(b"\x89HDF\r\n\x1a\n", "an HDF5 file", _GIVE_LABELS),
    _Kind(b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    _Kind(b"PAR1", "a Parquet file", _SAVE_SHEET),
    _Kind(b"SQLite format 3\0", "an SQLite database", _SAVE_SHEET),
    _Kind(b"MATLAB 5.0", "a MATLAB file (.mat)", _SAVE_LIST),
    _Kind(b"\x89PNG\r\n\x1a\n", "a PNG image", _GIVE_LABELS),
    _Kind(b"\xff\xd8\xff", "a JPEG image", _GIVE_LABELS),
    _Kind(b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    _Kind(b"<!doctype html", "an HTML page", "download the file itself, not the page that shows it"),
    _Kind(b"<html", "an HTML page", "download the file itself, not the page that shows it"),
    _Kind(b"<?xml", "an XML file", _SAVE_TEXT),
    *(
        _Kind(beginning, "a label map of TensorFlow's detection tools (.pbtxt)", _SAVE_TEXT)
        for beginning in (b"item {", b"item{")
    ),
)

_LABEL_HINTS = {_SAVE_LIST, _SAVE_TEXT, _SAVE_SHEET, _GIVE_LABELS}
"""Hints that are for label files only."""

_BYTE_ORDER_MARKS = (  # that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONVERT = (
    "convert it to UTF-8: iconv -f ENCODING -t UTF-8, where ENCODING is that of the file, such as "
    "WINDOWS-1252 (Western Europe), WINDOWS-1251 (Cyrillic), GB18030 (Chinese) or SHIFT_JIS (Japanese)"
)


def decode_text(data: bytes, name: str, what: str = LABEL_FILE) -> str:
    """Decodes UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is removed.

    Args:
        what: what the file should be, for errors.

    Raises:
        LabelsError: the bytes are another kind of file, or text in another encoding.
    """
    refuse_other_kinds(data, name, what)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decode(data.removeprefix(mark), encoding, name, offset=len(mark))
    _refuse_binary(data[:2048], name, what)
    return _decode(data, "utf-8", name)


def _decode(data: bytes, encoding: str, name: str, offset: int = 0) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        raise LabelsError(
            f"{name}: not {encoding.upper()}: byte 0x{data[error.start]:02x} at offset {error.start + offset}, "
            f"in line {line}",
            hint=_CONVERT if encoding == "utf-8" else "save it again as UTF-8",
        ) from error


def refuse_other_kinds(data: bytes, name: str, what: str = LABEL_FILE) -> None:
    """Raises LabelsError if the bytes begin like a file of a known kind that is not text."""
    beginning = data[:64].lstrip().lower()
    for kind in _KINDS:
        begins = data.startswith(kind.beginning) or beginning.startswith(kind.beginning)
        if begins and kind.contains in data:
            is_general = what == LABEL_FILE or kind.hint not in _LABEL_HINTS
            raise LabelsError(
                f"{name}: it is {kind.name}, not a {what}", hint=kind.hint if is_general else _SAVE_TABLE
            )


def _refuse_binary(start: bytes, name: str, what: str) -> None:
    """Raises LabelsError if the first bytes of a file have too many NUL bytes for text in UTF-8."""
    # In UTF-16, every other byte of Latin text is NUL: the second one of each two if the lower byte comes first.
    for encoding, zeros, others in (("UTF-16LE", start[1::2], start[::2]), ("UTF-16BE", start[::2], start[1::2])):
        if zeros.count(0) * 2 > len(zeros) and others.count(0) == 0:
            raise LabelsError(
                f"{name}: it is {encoding} without a byte order mark",
                hint=f"convert it to UTF-8: iconv -f {encoding} -t UTF-8",
            )
    if start.count(0) * 8 > len(start) > 0:
        raise LabelsError(
            f"{name}: it is a binary file, not text", hint=_GIVE_LABELS if what == LABEL_FILE else _SAVE_TABLE
        )
