"""Reads the boxes of files in the ISO base media form: AVIF, HEIF and JPEG 2000 (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

_MOST_BOXES = 2**12
_MOST_BYTES = 2**24
"""Limit on the boxes and on the bytes of the metadata that are looked at."""


def read_box(stream: BinaryIO, wanted: bytes) -> bytes:
    """Returns the content of the first box of a type at the top of the file, b"" if there is none.

    The position of the stream is kept.
    """
    position = stream.tell()
    try:
        stream.seek(0)
        with suppress(struct.error):
            return _read_box(stream, wanted)
    finally:
        stream.seek(position)
    return b""


def _read_box(stream: BinaryIO, wanted: bytes) -> bytes:
    for _ in range(_MOST_BOXES):
        header = stream.read(16)
        length, kind = struct.unpack_from(">I4s", header)
        used = 8
        if length == 1:
            (length,), used = struct.unpack_from(">Q", header, 8), 16
        stream.seek(used - len(header), io.SEEK_CUR)
        if kind == wanted:
            return stream.read(min(length - used, _MOST_BYTES)) if length else stream.read(_MOST_BYTES)
        if length < used:
            break
        stream.seek(length - used, io.SEEK_CUR)
    return b""


def iter_boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the (type, content) of the boxes that lie one behind the other."""
    position = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if length < 8:
            return
        yield kind, content[position + 8 : position + length]
        position += length


def read_item_properties(stream: BinaryIO) -> list[tuple[bytes, bytes]]:
    """Returns the (type, content) of the properties of the primary item of an AVIF or HEIF, in the file's order.

    They say how the image is to be shown (ISO/IEC 23008-12, 6.5). The list is empty if the metadata are damaged.
    """
    with suppress(ValueError, struct.error, KeyError, IndexError):
        boxes = dict(iter_boxes(read_box(stream, b"meta")[4:]))  # after version and flags
        primary = boxes[b"pitm"]
        (item,) = struct.unpack_from(">I" if primary[0] else ">H", primary, 4)
        parts = list(iter_boxes(boxes[b"iprp"]))
        properties = list(iter_boxes(dict(parts)[b"ipco"]))
        indices = [
            index for kind, content in parts if kind == b"ipma" for index in _associations(content, item) if index
        ]
        return [properties[index - 1] for index in indices if index <= len(properties)]
    return []


def _associations(content: bytes, item: int) -> Iterator[int]:
    """Yields the numbers, from 1, of the properties of an item."""
    version, flags = content[0], content[3]
    (count,) = struct.unpack_from(">I", content, 4)
    position = 8
    for _ in range(min(count, _MOST_BOXES)):
        form = ">IB" if version else ">HB"
        found, many = struct.unpack_from(form, content, position)
        position += struct.calcsize(form)
        for _ in range(many):
            if flags & 1:
                number = struct.unpack_from(">H", content, position)[0] & 0x7FFF
            else:
                number = content[position] & 0x7F
            position += 1 + (flags & 1)
            if found == item:
                yield number
