"""jsonl: one record per line, written at once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Record, RecordType

_ARRAY = "$array"
"""The key of a packed array: [dtype, shape, its bytes in base64]."""


def to_json(value: Any) -> str:
    """JSON on one line, arrays as lists. In UTF-8 where it can be: a file name that is not valid UTF-8 has its odd
    bytes as lone surrogate escapes, which Python's json and os.fsencode turn into the same bytes again."""
    return _encode(value, _array_to_list)


def to_packed_json(value: Any) -> str:
    """As `to_json`, but an array is packed: its bytes in base64 take a third of the space of decimal text."""
    return _encode(value, _pack_array)


def from_packed_json(line: bytes) -> Any:
    """
    Raises:
        ValueError: it is no JSON, or a packed array in it is damaged.
    """
    return json.loads(line, object_hook=_unpack_array if _ARRAY.encode() in line else None)


def read_json_lines(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """
    Raises:
        ValueError: a line is no record.
    """
    for number, line in enumerate(stream, start=1):
        try:
            yield record_type.from_dict(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no record: {error}") from error


class JsonLinesWriter:
    """See output.Writer."""

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
    except UnicodeEncodeError:
        return json.dumps(value, default=default)
    return text


def _array_to_list(array: Any) -> Any:
    # By way of its text a float32 keeps the digits it has, without the further ones of a float64.
    return [float(str(number)) for number in array]


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
