"""Writes and reads split.tsv: what became of each image of a training."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from imgclassify.errors import UsageError, describe_error
from imgclassify.files import atomic_write

PARTS = ("train", "val", "left out")


class SplitRow(NamedTuple):
    """An image of a training."""

    source: str
    """Its name."""
    label: str
    """Its class."""
    part: str
    """One of PARTS."""
    sha256: str
    """Of the bytes of its file, 64 hex digits. Empty if it could not be read."""
    reason: str
    """Why it was left out. Empty if it was not."""


def write_split(path: Path, rows: Iterable[SplitRow]) -> None:
    """Writes the file. Cells with a tab, a quote or the end of a line are in quotes, as in RFC 4180.

    Raises:
        OSError: it cannot be written.
    """
    # A name that is not valid UTF-8 is written as the bytes that it has on disk.
    with (
        atomic_write(path) as draft,
        draft.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        # With "\n", csv would not quote a carriage return.
        writer = csv.writer(_LineFeeds(stream), delimiter="\t", lineterminator="\r\n")
        writer.writerow(SplitRow._fields)
        writer.writerows(rows)


def read_split(path: Path) -> list[SplitRow]:
    """Reads the file.

    Raises:
        UsageError: it cannot be read, or is no such file.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = list(csv.reader(stream, delimiter="\t", strict=True))
    except (OSError, csv.Error) as error:
        raise _no_split(path, describe_error(error)) from error
    if not rows or tuple(rows[0]) != SplitRow._fields:
        raise _no_split(path, f"its first line is not {' '.join(SplitRow._fields)}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(SplitRow._fields) or row[2] not in PARTS:
            raise _no_split(path, f"row {number} is not one of an image")
    return [SplitRow(*row) for row in rows[1:]]


class _LineFeeds:
    """Writes rows that end with "\\r\\n" with "\\n"."""

    def __init__(self, stream: object) -> None:
        self._write = stream.write  # type: ignore[attr-defined]

    def write(self, row: str) -> None:
        self._write(row.removesuffix("\r\n") + "\n")


def _no_split(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{str(path)!r} is not the split of a training: {reason}", hint="give a split.tsv of a model folder"
    )
