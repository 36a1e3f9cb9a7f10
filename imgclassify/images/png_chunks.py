"""Follows the chunks of a PNG, reads single ones, checks them and makes new ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from imgclassify.images.splicing import Part

MOST_BYTES = 2**23
"""How much is read of one chunk at most, packed and unpacked."""
_MOST_CHUNKS = 2**20
"""How many chunks of a file are followed. A hostile file may have any number."""
_MOST_SEARCHED = 2**10
"""How many chunks are looked at to find one of a kind."""
_MOST_BYTES = 2**10
"""How much is read of such a chunk. Those that are asked for are shorter."""
_BLOCK_BYTES = 2**20
_END = (b"IDAT", b"IEND")
"""Where the search ends."""


class Chunk(NamedTuple):
    """A chunk of a PNG."""

    kind: bytes
    position: int
    """Of its length, which comes first."""
    length: int
    """Of its data."""
    part: Part
    """Where it is in the file, or what takes its place."""


def iter_chunks(stream: BinaryIO, most: int = _MOST_CHUNKS) -> Iterator[Chunk]:
    """Yields each chunk. The last one may reach beyond the end. The stream may be moved in between.

    A chunk with a type that is not of four letters ends them, unless its checksum is right.

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
        chunk = Chunk(kind, position, length, (position, 12 + length))
        if not kind.isalnum() and not (length <= MOST_BYTES and has_checksum(stream, chunk, if_cut=False)):
            return
        yield chunk
        if kind == b"IEND":
            return
        position += 12 + length


def read_png_chunk(stream: BinaryIO, kind: bytes) -> bytes | None:
    """Returns the content of the first chunk of a kind, None if there is none before the pixels.

    The checksum is not verified. The position of the stream is kept.

    Args:
        stream: a PNG.
        kind: four letters, such as b"sBIT".
    """
    position = stream.tell()
    try:
        for chunk in iter_chunks(stream, _MOST_SEARCHED):
            if chunk.kind == kind:
                return read_data(stream, chunk, _MOST_BYTES)
            if chunk.kind in _END:
                break
    finally:
        stream.seek(position)
    return None


def read_data(stream: BinaryIO, chunk: Chunk, most: int | None = None) -> bytes:
    """Returns the data of a chunk: all, or at most so many bytes."""
    stream.seek(chunk.position + 8)
    return stream.read(chunk.length if most is None else min(chunk.length, most))


def has_checksum(stream: BinaryIO, chunk: Chunk, *, if_cut: bool = True) -> bool:
    """Whether the checksum of a chunk is right.

    Args:
        if_cut: the result if the file ends before the checksum.
    """
    stream.seek(chunk.position + 4)
    left, checksum = chunk.length + 4, 0
    while left:
        block = stream.read(min(left, _BLOCK_BYTES))
        if not block:
            return if_cut
        left -= len(block)
        checksum = zlib.crc32(block, checksum)
    found = stream.read(4)
    return if_cut if len(found) < 4 else found == struct.pack(">I", checksum)


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Returns a chunk of a PNG."""
    return b"".join(
        (struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
    )
