"""Reads the records of a file that a run wrote."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from imgclassify.errors import UsageError, describe_error
from imgclassify.output.file_formats import open_file_format, open_text_file
from imgclassify.output.formats import OutputFormat, list_formats
from imgclassify.output.json_document import read_json_document
from imgclassify.output.json_lines import read_json_lines
from imgclassify.output.records import R, RecordType

__all__ = ["read_record_lines", "read_records"]

_DOCUMENT = "json"
"""The name of the format that can be read back, but not be resumed: its writer keeps no journal."""


def read_records(path: Path, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records of a complete output file, in order.

    The file's extension selects the format: any except the table. The sidecar is not needed.

    Raises:
        UsageError: the file cannot be read, or it is not a file of such records. Records before a damaged part
            may have been yielded.
    """
    output_format = _find_format(path, record_type)
    try:
        yield from _read_file(path, output_format, record_type)
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise _missing_file(path) from error
    except Exception as error:  # libraries may raise anything for a damaged file
        raise UsageError(
            f"cannot read {str(path)!r}: {describe_error(error)}",
            hint=f"give a file of {record_type.name} that imgclassify wrote",
        ) from error


def read_record_lines(stream: TextIO, record_type: RecordType[R]) -> Iterator[R]:
    """Yields the records of JSON Lines on stdin, as they arrive.

    Raises:
        UsageError: a line is not such a record.
    """
    try:
        yield from read_json_lines(stream, record_type)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the records on stdin: {describe_error(error)}",
            hint="give JSON Lines, as `imgclassify predict --jsonl` writes them",
        ) from error


def _find_format(path: Path, record_type: RecordType[Any]) -> OutputFormat:
    readable = [each for each in list_formats(record_type) if each.resumable or each.name == _DOCUMENT]
    extension = path.suffix.lower().removeprefix(".")
    found = next((each for each in readable if extension in each.extensions), None)
    if found is None:
        extensions = ", ".join(f".{name}" for each in readable for name in each.extensions)
        raise UsageError(
            f"{str(path)!r} is not a file of {record_type.name}, by its extension",
            hint=f"give a file that imgclassify wrote with --output: {extensions}",
        )
    return found


def _read_file(path: Path, output_format: OutputFormat, record_type: RecordType[R]) -> Iterator[R]:
    if output_format.file_format:
        with path.open("rb"):  # a library's message for a file that cannot be opened says less
            pass
        _, records = open_file_format(output_format, record_type).load(path)
        yield from records
        return
    read: Any = read_json_document if output_format.reader is None else output_format.load(output_format.reader)
    with open_text_file(path, "r") as stream:
        yield from read(stream, record_type)


def _missing_file(path: Path) -> UsageError:
    journal = path.with_name(path.name + ".partial")
    if os.path.lexists(journal):
        return UsageError(
            f"{str(path)!r} is not complete: {journal.name!r} holds the records of a stopped run",
            hint="run the command that writes it again, with --resume",
        )
    return UsageError(f"{str(path)!r} does not exist", hint="give a file that `--output` wrote, or - for stdin")
