"""Keeps the records that a filter leaves out of an output file in a sidecar, NAME.left-out.jsonl.

A resumed run takes from it which sources have a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from imgclassify.files import atomic_write
from imgclassify.output.file_formats import open_text_file
from imgclassify.output.json_lines import read_json_lines, to_json
from imgclassify.output.records import R, RecordType


def left_out_path(path: Path) -> Path:
    """Returns the path of the sidecar of an output file."""
    return path.with_name(path.name + ".left-out.jsonl")


def save_left_out(path: Path, records: Iterable[R]) -> None:
    """Writes the sidecar of the output file at `path`. Raises OSError if it cannot be written."""
    with atomic_write(left_out_path(path), locked=True) as draft, open_text_file(draft, "w") as stream:
        for record in records:
            stream.write(to_json(record.to_dict()) + "\n")


def load_left_out(path: Path, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records in the sidecar of the output file at `path`.

    Raises:
        ValueError: the sidecar is missing, or a line of it is not a record.
    """
    sidecar = left_out_path(path)
    try:
        stream = open_text_file(sidecar, "r")
    except FileNotFoundError:
        raise ValueError(f"its sidecar {sidecar.name!r}, with the images that were left out, is missing") from None
    with stream:
        try:
            yield from read_json_lines(stream, record_type)
        except ValueError as error:
            raise ValueError(f"its sidecar {sidecar.name!r} is damaged: {error}") from error
