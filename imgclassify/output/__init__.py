"""ImageResults out: one file per format. Nothing here sees a tensor or an image."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

from imgclassify.errors import UsageError
from imgclassify.results import ImageResult, RunInfo

FORMATS = ("table", "json", "jsonl", "csv", "tsv")


class Writer(Protocol):
    """Takes results as they come. Whatever happens inside the `with`, what was written is whole when it ends."""

    def __enter__(self) -> Self: ...

    def write(self, result: ImageResult) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(name: str, stream: TextIO, run: RunInfo, *, top_k: int) -> Writer:
    """The writer of a format.

    Args:
        name: one of FORMATS.
        top_k: how many predictions the records have, for formats with fixed columns.
    """
    if name == "json":
        from imgclassify.output.json_document import JsonDocumentWriter

        return JsonDocumentWriter(stream, run)
    if name == "jsonl":
        from imgclassify.output.json_lines import JsonLinesWriter

        return JsonLinesWriter(stream)
    if name in ("csv", "tsv"):
        from imgclassify.output.delimited import DelimitedWriter

        return DelimitedWriter(stream, top_k=top_k, delimiter="," if name == "csv" else "\t")
    if name == "table":
        from imgclassify.output.table import TableWriter

        return TableWriter(stream)
    raise UsageError(f"unknown format {name!r}", hint=f"use one of {', '.join(FORMATS)}")


def format_of(path: Path) -> str:
    """The format that a file's ending names.

    Raises:
        UsageError: it names none.
    """
    suffix = path.suffix.lower().removeprefix(".")
    suffix = {"txt": "table", "ndjson": "jsonl"}.get(suffix, suffix)
    if suffix in FORMATS:
        return suffix
    raise UsageError(
        f"the ending of {str(path)!r} names no format",
        hint=f"add --format with one of {', '.join(FORMATS)}, or end the name in .json, .jsonl, .csv or .tsv",
    )
