"""Protocol Buffers' wire format, as little of it as reading and changing an ONNX graph takes without the onnx
package, whose import alone would cost more than answering a picture. (protobuf.dev/programming-guides/encoding)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BITS = 70
"""Of the longest, ten bytes."""

Message = TypeVar("Message", bytes, memoryview)
"""A message; of a memoryview nothing is copied."""


class Field(NamedTuple, Generic[Message]):
    """One field of a message."""

    number: int
    value: int | Message
    """A number, or the bytes of a string or of a message in the message."""
    raw: Message
    """The whole field as it stands in the message."""


def iter_fields(message: Message) -> Iterator[Field[Message]]:
    """The fields of a message, in order.

    Raises:
        ValueError: it is no message, or ends too early.
    """
    position = 0
    while position < len(message):
        begin = position
        key, position = _read_varint(message, position)
        kind = key & 7
        value: int | Message
        if kind == _VARINT:
            value, position = _read_varint(message, position)
        elif kind == _BYTES or kind in _FIXED_SIZES:
            size, position = (_FIXED_SIZES[kind], position) if kind != _BYTES else _read_varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise ValueError(f"a message has a field of kind {kind}")
        if position > len(message):
            raise ValueError("a message ends too early")
        yield Field(key >> 3, value, message[begin:position])


def replace_fields(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """The message with `change` made to each of its fields `number`, which hold bytes."""
    return b"".join(
        encode_field(number, change(field.value))
        if field.number == number and isinstance(field.value, bytes)
        else field.raw
        for field in iter_fields(message)
    )


def encode_field(number: int, value: int | bytes) -> bytes:
    """A field as it stands in a message."""
    if isinstance(value, int):
        return _encode_varint(number << 3 | _VARINT) + _encode_varint(value)
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value


def parse_numbers(value: int | bytes) -> list[int]:
    """What one field of a repeated number holds: one number, or many packed into bytes."""
    if isinstance(value, int):
        return [value]
    found, position = [], 0
    while position < len(value):
        number, position = _read_varint(value, position)
        found.append(number)
    return found


def _read_varint(message: bytes | memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise ValueError("a message ends too early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= _VARINT_BITS:
            raise ValueError("a message has a number without end")


def _encode_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
