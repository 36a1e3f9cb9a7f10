"""jsonl: one record a line, flushed as it is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TextIO

from imgclassify.results import ImageResult


def to_json(value: Any) -> str:
    """JSON on one line, in UTF-8 where it can be: a file name that is not valid UTF-8 has its bytes as lone
    surrogate escapes, which Python's json and os.fsencode turn into the same bytes again."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def read_json_lines(stream: TextIO) -> Iterator[ImageResult]:
    """
    Raises:
        ValueError: a line is no record.
    """
    for number, line in enumerate(stream, start=1):
        try:
            yield ImageResult.from_dict(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is no record: {error}") from error


class JsonLinesWriter:
    """See output.Writer."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def write(self, result: ImageResult) -> None:
        self._stream.write(to_json(result.to_dict()) + "\n")
        self._stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()
