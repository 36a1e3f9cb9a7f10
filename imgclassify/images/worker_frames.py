"""Sends and receives frames over the pipes between this process and its worker processes.

A frame is a length, a JSON object, and as many bytes as the object says. Nothing that is received is ever executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import IO, Any

_HEADER_BYTES = 2**22
"""The largest JSON object that a frame may have."""
_LENGTH = struct.Struct(">I")


def send_frame(pipe: IO[bytes], header: dict[str, Any], contents: Iterable[bytes] = ()) -> None:
    # Names that are not valid text survive, because JSON escapes their surrogates.
    packed = json.dumps(header).encode()
    pipe.write(_LENGTH.pack(len(packed)) + packed)
    for content in contents:
        pipe.write(content)
    pipe.flush()


def receive_frame(pipe: IO[bytes]) -> dict[str, Any] | None:
    """Reads the header of a frame. Its contents follow it.

    Returns:
        The header. None at the end of the pipe.

    Raises:
        EOFError: the pipe ends in the middle of the header.
        ValueError: the data is not a frame.
    """
    start = pipe.read(_LENGTH.size)
    if not start:
        return None
    if len(start) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(start)
    if length > _HEADER_BYTES:
        raise ValueError(length)
    header = json.loads(read_exactly(pipe, length))
    if not isinstance(header, dict):
        raise ValueError(header)
    return header


def read_exactly(pipe: IO[bytes], count: int) -> bytes:
    """Raises EOFError if the pipe ends before."""
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError
    return content
