"""Writes and reads jsonl: one record per line, written as soon as it is known."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Record, RecordType

_PLACE = "\0array\0"
"""Stands for an array while the rest of a value is encoded. No name of a file or error contains a NUL."""
_ENCODED_PLACE = json.dumps(_PLACE)

_ARRAY = "$array"
"""The key of a packed array: [dtype, shape, its bytes in base64]."""


def to_json(value: Any) -> str:
    """Returns JSON on one line, with arrays as lists.

    The text is not escaped to ASCII, unless it contains a file name that is not valid UTF-8. The invalid bytes
    of such a name become lone surrogate escapes. Python's json and os.fsencode turn these into the same bytes
    again.
    """
    arrays: list[str] = []

    def hold_place(array: Any) -> str:
        arrays.append(_array_to_json(array))
        return _PLACE

    first, *others = _encode(value, hold_place).split(_ENCODED_PLACE)
    # The value may have been encoded twice. The arrays of the last time count.
    return first + "".join(part for pair in zip(arrays[-len(others) :], others, strict=True) for part in pair)


def to_packed_json(value: Any) -> str:
    """Like `to_json`, but packs arrays: their bytes in base64 take a third of the space of decimal text."""
    return _encode(value, _pack_array)


def from_packed_json(line: bytes) -> Any:
    """Parses JSON and unpacks the packed arrays in it.

    Raises:
        ValueError: the line is not JSON, or a packed array in it is damaged.
    """
    return json.loads(line, object_hook=_unpack_array if _ARRAY.encode() in line else None)


def read_json_lines(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records of a stream.

    Raises:
        ValueError: a line is not a record.
    """
    for number, line in enumerate(stream, start=1):
        try:
            yield record_type.from_dict(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not a record: {error}") from error


class JsonLinesWriter:
    """Writes jsonl; see formats.Writer."""

    def __init__(self, stream: TextIO, provenance: Provenance, record_type: RecordType[Any]) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def write(self, record: Record) -> None:
        self._stream.write(to_json(record.to_dict()) + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()


def _encode(value: Any, default: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=default)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which must be escaped
        return json.dumps(value, default=default)
    return text


def _array_to_json(array: Any) -> str:
    # orjson writes the digits of the float32, and takes a hundredth of the time of json.
    import orjson

    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _pack_array(array: Any) -> dict[str, Any]:
    return {_ARRAY: [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]}


def _unpack_array(value: dict[str, Any]) -> Any:
    if value.keys() != {_ARRAY}:
        return value
    import numpy as np

    try:
        dtype, shape, content = value[_ARRAY]
        return np.frombuffer(base64.b64decode(content, validate=True), np.dtype(dtype)).reshape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"an array in it is damaged: {error}") from error
