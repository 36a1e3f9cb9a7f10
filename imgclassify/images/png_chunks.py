"""Reads single chunks of a PNG, which Pillow does not hand over."""

from __future__ import annotations

import struct
from contextlib import suppress
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
    position, place = stream.tell(), 8
    try:
        with suppress(struct.error):
            for _ in range(_MOST_CHUNKS):
                stream.seek(place)
                length, found = struct.unpack(">I4s", stream.read(8))
                if found == kind:
                    return stream.read(min(length, _MOST_BYTES))
                if found in _END:
                    break
                place += 12 + length
    finally:
        stream.seek(position)
    return None
