"""Writes and reads jsonl: one record per line, written as soon as it is known."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TextIO

import orjson

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Record, RecordType

_ARRAY = "$array"
"""The key of a packed array: [dtype, shape, its bytes in base64]."""


def to_json(value: Any) -> str:
    """Returns JSON on one line, without spaces, and with arrays as lists.

    The text is not escaped to ASCII, unless it contains a file name that is not valid UTF-8. The invalid bytes
    of such a name become lone surrogate escapes. Python's json and os.fsencode turn these into the same bytes
    again.
    """
    return _encode(value, None, orjson.OPT_SERIALIZE_NUMPY).decode()


def to_packed_json(value: Any) -> bytes:
    """Like `to_json`, but packs arrays: their bytes in base64 take a third of the space of decimal text."""
    return _encode(value, _pack_array)


def from_packed_json(line: bytes) -> Any:
    """Parses JSON and unpacks the packed arrays in it.

    Raises:
        ValueError: the line is not JSON, or a packed array in it is damaged.
    """
    if _ARRAY.encode() not in line:
        try:
            return orjson.loads(line)
        except ValueError:  # perhaps a lone surrogate
            return json.loads(line)
    return json.loads(line, object_hook=_unpack_array)


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


def _encode(value: Any, default: Callable[[Any], Any] | None, options: int = 0) -> bytes:
    # orjson takes a tenth of the time of json, and writes the digits of a float32.
    try:
        return orjson.dumps(value, default, options)
    except orjson.JSONEncodeError:  # a lone surrogate, which must be escaped
        return json.dumps(value, separators=(",", ":"), default=default or _array_to_list).encode()


def _array_to_list(array: Any) -> Any:
    return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


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
