"""Follows the blocks of a GIF (GIF89a, appendix B)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

EXTENSION, IMAGE, TRAILER = b"!,;"


def iter_blocks(stream: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yields the (kind, position, position after it) of each block. Bytes between blocks are skipped, as by Pillow.

    A block is yielded before its end is looked for, with the position after what describes it: of an image, the
    palette of its own and the code size. The stream may be moved in between.

    Raises:
        IndexError: the file ends within a block.
    """
    position = 13 + _palette_bytes(_read_byte(stream, 10))
    while True:
        stream.seek(position)
        kind = stream.read(1)
        if not kind:
            return
        start, position = position, position + 1
        if kind[0] == TRAILER:
            yield TRAILER, start, position
            return
        if kind[0] not in (EXTENSION, IMAGE):
            continue
        position += 1 if kind[0] == EXTENSION else 10 + _palette_bytes(_read_byte(stream, position + 8))
        _read_byte(stream, position - 1)
        yield kind[0], start, position
        position = skip_data(stream, position)


def skip_data(stream: BinaryIO, position: int) -> int:
    """Returns the position after the data that begins at a position. Raises IndexError if the file ends before."""
    stream.seek(position)
    while count := stream.read(1)[0]:
        stream.seek(count, 1)
    return stream.tell()


def count_images(stream: BinaryIO) -> tuple[int, bool]:
    """Counts the images of a GIF. The position of the stream is kept.

    Returns:
        (how many images begin, whether the file has its end).
    """
    start, images, is_whole = stream.tell(), 0, False
    with suppress(IndexError):
        for kind, _, _ in iter_blocks(stream):
            images += kind == IMAGE
            is_whole = kind == TRAILER
    stream.seek(start)
    return images, is_whole


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_byte(stream: BinaryIO, position: int) -> int:
    stream.seek(position)
    return stream.read(1)[0]
