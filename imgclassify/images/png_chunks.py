"""Follows the chunks of a PNG, and reads single ones that Pillow does not hand over."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

_MOST_CHUNKS = 2**10
"""How many chunks are looked at."""
_MOST_BYTES = 2**10
"""How much is read of a chunk. Those that are asked for are shorter."""
_END = (b"IDAT", b"IEND")
"""Where the search ends."""


def read_png_chunk(stream: BinaryIO, kind: bytes) -> bytes | None:
    """Returns the content of the first chunk of a kind, None if there is none before the pixels.

    The checksum is not verified. The position of the stream is kept.

    Args:
        stream: a PNG.
        kind: four letters, such as b"sBIT".
    """
    position = stream.tell()
    try:
        for found, place, length in iter_chunks(stream, _MOST_CHUNKS):
            if found == kind:
                stream.seek(place + 8)
                return stream.read(min(length, _MOST_BYTES))
            if found in _END:
                break
    finally:
        stream.seek(position)
    return None


def iter_chunks(stream: BinaryIO, most: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the (kind, position of the length that begins it, length of its data) of each chunk.

    The last one may reach beyond the end. The stream may be moved in between.

    Args:
        most: how many chunks are followed.
    """
    position = 8
    for _ in range(most):
        stream.seek(position)
        header = stream.read(8)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        if not kind.isalnum():
            return
        yield kind, position, length
        if kind == b"IEND":
            return
        position += 12 + length
