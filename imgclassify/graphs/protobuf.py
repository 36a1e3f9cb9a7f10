"""Reads and changes protobuf messages, as far as ONNX graphs need it.

Importing the onnx package would take longer than classifying an image. For the wire format, see
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BITS = 70
"""The longest varint has ten bytes of seven bits."""

Message = TypeVar("Message", bytes, memoryview)
"""A message. The fields of a memoryview are views, not copies."""


class Field(NamedTuple, Generic[Message]):
    """One field of a message."""

    number: int
    value: int | Message
    """A number, or the bytes of a string, of a nested message or of a fixed-size number."""
    raw: Message
    """The encoded field, including its key."""


def iter_fields(message: Message) -> Iterator[Field[Message]]:
    """Yields the fields of a message, in order.

    Raises:
        ValueError: the bytes are not a message, or end too early.
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
    """Returns the message with `change` applied to the bytes of each field `number`."""
    return b"".join(
        encode_field(number, change(field.value))
        if field.number == number and isinstance(field.value, bytes)
        else field.raw
        for field in iter_fields(message)
    )


def encode_field(number: int, value: int | bytes) -> bytes:
    """Encodes a field: a varint for an int, a length and the bytes for bytes."""
    if isinstance(value, int):
        return _encode_varint(number << 3 | _VARINT) + _encode_varint(value)
    return encode_head(number, len(value)) + value


def encode_head(number: int, size: int) -> bytes:
    """Encodes what comes before the bytes of a field."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(size)


def parse_numbers(value: int | bytes) -> list[int]:
    """Parses one field of a repeated number: one number, or many that are packed into bytes."""
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
            raise ValueError("a message has a number of more than ten bytes")


def _encode_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
