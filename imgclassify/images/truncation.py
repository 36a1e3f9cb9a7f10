"""Tells whether a file that could not be decoded ends before its own format says that it does.

Decoders report truncated and damaged files in the same many ways. The sizes and end markers of the container
tell the two apart.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from imgclassify.errors import TruncatedImageError

if TYPE_CHECKING:
    from imgclassify.images.tiff.directories import Directory

_END_OF_JPEG = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_END_OF_PNG = b"IEND\xaeB`\x82"
_END_OF_GIF = b"\0;"
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""The identifiers of the first two elements of a Matroska file."""
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
"""Types of the boxes with which an MP4 or QuickTime file may begin."""
_PADDING = b"\0\r\n\t "

_TAIL_BYTES = 2**12
_BLOCK_BYTES = 2**20
_MOST_PARTS = 2**14
_MOST_STRIPS = 2**20
_MOST_PAGES = 2**8
"""How many segments or boxes (_MOST_PARTS), strips of a page (_MOST_STRIPS) and pages of a file are inspected. A
hostile file may have any number."""


def is_truncated(stream: BinaryIO, format_name: str, message: str) -> bool:
    """Whether a file that could not be decoded is only the beginning of a file.

    Args:
        stream: seekable. It is left at any position.
        format_name: one of `decoders.IMAGE_FORMATS`.
        message: the decoder's error message. PPM has no sizes, and so nothing else tells.
    """
    if format_name == "PPM":
        return any(part in message for part in ("truncated", "not enough image data", "Reached EOF"))
    with suppress(Exception):  # a structure that cannot be followed is damaged, not truncated
        return _CHECKS[format_name](stream, stream.seek(0, io.SEEK_END))
    return False


def _jpeg_truncated(stream: BinaryIO, size: int) -> bool:
    """Whether no end marker follows the start of the first scan.

    An end marker before the scan may belong to a thumbnail.
    """
    position = 2
    for _ in range(_MOST_PARTS):
        stream.seek(position)
        header = stream.read(4)
        if len(header) < 4:
            return True
        mark, marker, length = struct.unpack(">BBH", header)
        if mark != 0xFF or marker == _START_OF_SCAN:
            break
        position += 2 + length
        if position > size:
            # The file may be truncated, but the segment's length may just as well be damaged.
            return not _read_tail(stream, size).rstrip(_PADDING).endswith(_END_OF_JPEG)
    return not _contains_mark(stream, _END_OF_JPEG)


def _png_truncated(stream: BinaryIO, size: int) -> bool:
    return _END_OF_PNG not in _read_tail(stream, size)


def _gif_truncated(stream: BinaryIO, size: int) -> bool:
    return not _read_tail(stream, size).rstrip(b"\r\n\t ").endswith(_END_OF_GIF)


def _webp_truncated(stream: BinaryIO, size: int) -> bool:
    return _read_number(stream, 4, "<I") + 8 > size


def _bmp_truncated(stream: BinaryIO, size: int) -> bool:
    return _read_number(stream, 2, "<I") > size


def _tiff_truncated(stream: BinaryIO, size: int) -> bool:
    """Whether a directory, or a value, strip or tile that one names, reaches beyond the end."""
    from imgclassify.images.tiff.directories import read_pages

    try:
        return any(_page_end(page) > size for page in islice(read_pages(stream), _MOST_PAGES))
    except (struct.error, TruncatedImageError):  # a directory is beyond the end
        return True


def _page_end(page: Directory) -> int:
    """Returns the end of what a directory names."""
    from imgclassify.images.tiff.directories import STRIP_OFFSETS
    from imgclassify.images.tiff.layout import STRIP_BYTES, TILE_BYTES, TILE_OFFSETS

    ends = [entry.place + entry.length for entry in page.entries.values()]
    for start_tag, length_tag in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        with suppress(EOFError, ValueError):
            pairs = zip(page.array(start_tag, _MOST_STRIPS), page.array(length_tag, _MOST_STRIPS), strict=False)
            ends += [int(start) + int(length) for start, length in pairs]
    return max(ends, default=0)


def _boxes_truncated(stream: BinaryIO, size: int) -> bool:
    """Whether a box of an ISO base media file reaches beyond the end, or no box contains the image."""
    position = 0
    kinds: set[bytes] = set()
    for _ in range(_MOST_PARTS):
        if position == size:
            return kinds.isdisjoint((b"mdat", b"jp2c"))
        stream.seek(position)
        header = stream.read(16)
        length, kind = struct.unpack(">I4s", header[:8]) if len(header) >= 8 else (size, b"")
        if length == 1:
            (length,) = struct.unpack(">Q", header[8:])
        elif length == 0:  # the box reaches to the end of the file
            return kind == b"jp2c" and not _read_tail(stream, size).endswith(_END_OF_JPEG)
        position += max(length, 8)
        kinds.add(kind)
        if position > size:
            return True
    return False


def _video_truncated(stream: BinaryIO, size: int) -> bool:
    """Whether the container says that it is longer. Only those that say so are looked at."""
    stream.seek(0)
    start = stream.read(4)
    if start == _EBML:
        return _matroska_truncated(stream, size)
    if start == b"RIFF":
        return _avi_truncated(stream, size)
    return stream.read(4) in _FIRST_BOXES and _boxes_truncated(stream, size)


def _matroska_truncated(stream: BinaryIO, size: int) -> bool:
    """Whether the segment, which is the second element, reaches beyond the end (RFC 8794)."""
    header = _read_element_size(stream, 4)
    assert header is not None
    stream.seek(header, 1)
    if stream.read(4) != _SEGMENT:
        return False
    length = _read_element_size(stream, stream.tell())
    return length is not None and stream.tell() + length > size


def _read_element_size(stream: BinaryIO, position: int) -> int | None:
    """Reads the size of an element's data, which begins at the position then. None if it is not known."""
    stream.seek(position)
    first = stream.read(1)[0]
    more = 8 - first.bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(bytes((first,)) + stream.read(more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def _avi_truncated(stream: BinaryIO, size: int) -> bool:
    position = 0
    for _ in range(_MOST_PARTS):
        if position + 8 > size:
            return position > size
        position += 8 + _read_number(stream, position + 4, "<I")
    return False


def _jpeg2000_truncated(stream: BinaryIO, size: int) -> bool:
    if _read_number(stream, 0, ">I") == 0xFF4FFF51:  # a bare codestream, without boxes
        return not _read_tail(stream, size).rstrip(_PADDING).endswith(_END_OF_JPEG)
    return _boxes_truncated(stream, size)


_CHECKS: dict[str, Callable[[BinaryIO, int], bool]] = {
    "JPEG": _jpeg_truncated,
    "PNG": _png_truncated,
    "WEBP": _webp_truncated,
    "GIF": _gif_truncated,
    "TIFF": _tiff_truncated,
    "BMP": _bmp_truncated,
    "AVIF": _boxes_truncated,
    "HEIF": _boxes_truncated,
    "JPEG2000": _jpeg2000_truncated,
    "video": _video_truncated,
}


def _read_number(stream: BinaryIO, position: int, form: str) -> int:
    stream.seek(position)
    number: int = struct.unpack(form, stream.read(struct.calcsize(form)))[0]
    return number


def _read_tail(stream: BinaryIO, size: int) -> bytes:
    stream.seek(max(0, size - _TAIL_BYTES))
    return stream.read(_TAIL_BYTES)


def _contains_mark(stream: BinaryIO, mark: bytes) -> bool:
    """Whether the mark occurs between the current position and the end."""
    before = b""
    while block := stream.read(_BLOCK_BYTES):
        if mark in before + block:
            return True
        before = block[-len(mark) + 1 :]
    return False
