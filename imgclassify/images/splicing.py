"""Shows parts of a file as one file, without copying them."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import BinaryIO, TypeAlias, cast

Part: TypeAlias = "tuple[int, int] | bytes"
"""(position in the file, length), or bytes that are not in the file."""


def splice(stream: BinaryIO, parts: Iterable[Part]) -> BinaryIO:
    """Returns a seekable stream of the parts, in order. Adjacent parts cost nothing: they become one.

    Args:
        stream: seekable. It must stay open, and other code must not rely on its position.
    """
    return cast("BinaryIO", io.BufferedReader(_Parts(stream, _merge(parts))))


def _merge(parts: Iterable[Part]) -> list[Part]:
    merged: list[Part] = []
    for part in parts:
        before = merged[-1] if merged else None
        if isinstance(part, tuple) and isinstance(before, tuple) and sum(before) == part[0]:
            merged[-1] = before[0], before[1] + part[1]
        else:
            merged.append(part)
    return merged


class _Parts(io.RawIOBase):
    def __init__(self, stream: BinaryIO, parts: list[Part]) -> None:
        self._stream = stream
        self._parts = parts
        lengths = (part[1] if isinstance(part, tuple) else len(part) for part in parts)
        self._starts = list(accumulate(lengths, initial=0))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._read_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Reads the rest in as few pieces as it has parts, where RawIOBase takes thousands."""
        return b"".join(iter(lambda: self._read_some(self._starts[-1]), b""))

    def _read_some(self, most: int) -> bytes:
        """Reads from the part at the current position. The result is empty only at the end."""
        index = bisect_right(self._starts, self._position) - 1
        if index == len(self._parts):
            return b""
        part, offset = self._parts[index], self._position - self._starts[index]
        wanted = min(most, self._starts[index + 1] - self._position)
        if isinstance(part, tuple):
            self._stream.seek(part[0] + offset)
            data = self._stream.read(wanted)
        else:
            data = part[offset : offset + wanted]
        self._position += len(data)
        return data
