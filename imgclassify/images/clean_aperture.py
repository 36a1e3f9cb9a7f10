"""Reads the clean aperture of an AVIF: the part of the stored image that is to be shown.

Pillow applies the rotation and the mirroring of the container, but not this (ISO/IEC 14496-12, 12.1.4.1;
ISO/IEC 23008-12, 6.5.9). libheif applies it, so HEIF files need nothing here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

_MOST_BOXES = 2**12
_MOST_BYTES = 2**24
"""Limit on the boxes and on the bytes of the metadata that are looked at."""


def find_clean_aperture(stream: BinaryIO, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Returns the box (left, top, right, bottom) that is to be shown of the primary image, in its pixels.

    The position of the stream is kept.

    Args:
        size: (width, height) of the stored image.

    Returns:
        None if the file has no clean aperture, or one that is damaged, empty or not inside the image.
    """
    position = stream.tell()
    try:
        with suppress(ValueError, struct.error, ZeroDivisionError, KeyError, IndexError):
            stream.seek(0)
            return _to_box(_read_aperture(_read_meta(stream)), size)
    finally:
        stream.seek(position)
    return None


def _read_meta(stream: BinaryIO) -> bytes:
    """Returns the content of the first box "meta" of the file, b"" if there is none."""
    for _ in range(_MOST_BOXES):
        header = stream.read(16)
        length, kind = struct.unpack_from(">I4s", header)
        used = 8
        if length == 1:
            (length,), used = struct.unpack_from(">Q", header, 8), 16
        stream.seek(used - len(header), io.SEEK_CUR)
        if kind == b"meta":
            return stream.read(min(length - used, _MOST_BYTES)) if length else stream.read(_MOST_BYTES)
        if length < used:
            break
        stream.seek(length - used, io.SEEK_CUR)
    return b""


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields the (type, content) of the boxes that lie one behind the other."""
    position = 0
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if length < 8:
            return
        yield kind, content[position + 8 : position + length]
        position += length


def _read_aperture(meta: bytes) -> tuple[int, ...]:
    """Returns the eight numbers of the property "clap" of the primary item.

    Raises:
        KeyError, IndexError, struct.error: there is none.
    """
    boxes = dict(_boxes(meta[4:]))  # after version and flags
    primary = boxes[b"pitm"]
    (item,) = struct.unpack_from(">I" if primary[0] else ">H", primary, 4)
    parts = list(_boxes(boxes[b"iprp"]))
    properties = list(_boxes(dict(parts)[b"ipco"]))
    for kind, content in parts:
        for index in _associations(content, item) if kind == b"ipma" else ():
            if index and properties[index - 1][0] == b"clap":
                return struct.unpack(">IIIIiIiI", properties[index - 1][1][:32])
    raise KeyError("clap")


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


def _to_box(aperture: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    shown = [aperture[at] / aperture[at + 1] for at in range(0, 8, 2)]
    box = []
    for side, extent, offset in zip(size, shown[:2], shown[2:], strict=True):
        # The offset is that of the centres of the two.
        start = offset + (side - 1) / 2 - (extent - 1) / 2
        box.append((round(start), round(start + extent)))
    (left, right), (top, bottom) = box
    if 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]:
        return left, top, right, bottom
    return None
