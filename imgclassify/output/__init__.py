"""ImageResults out: one file per format. Nothing here sees a tensor or an image."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

from imgclassify.errors import UsageError
from imgclassify.output.atomic import is_replaceable, report_io_errors
from imgclassify.results import ImageResult, RunInfo

FORMATS = ("table", "json", "jsonl", "csv", "tsv", "parquet", "sqlite")
KEPT_FORMATS = ("jsonl", "csv", "tsv", "parquet", "sqlite")
"""Those whose files a stopped run can go on with. A table cannot be read back, and a JSON document is one value."""
FILE_FORMATS = ("parquet", "sqlite")
"""Those that cannot be streamed."""
_OTHER_ENDINGS = {"txt": "table", "ndjson": "jsonl", "db": "sqlite", "sqlite3": "sqlite"}


class Writer(Protocol):
    """Takes results as they come. Whatever happens inside the `with`, what was written is whole when it ends."""

    def __enter__(self) -> Self: ...

    def write(self, result: ImageResult) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Output(Protocol):
    """What a run's records are handed to. Used in a with statement."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def on_terminal(self) -> bool:
        """Whether the records are read by someone as they come."""
        ...

    @property
    def unfinished(self) -> Path | None:
        """Where the records of a stopped run are, if it can be gone on with."""
        ...

    resumed: int
    """Records that were there and stay."""
    resumed_failed: int
    """Of them, those of pictures that failed."""

    @property
    def resumed_device(self) -> str | None:
        """What the records that were there were computed on; None where there were none, or they do not say."""
        ...

    @property
    def count(self) -> int:
        """Records, all in all."""
        ...

    @property
    def failed(self) -> int:
        """Of them, those of pictures that failed."""
        ...

    def claim_record(self, source: str) -> bool:
        """Whether a source has its record; asked once each time that the source is named."""
        ...

    def begin(self, run: RunInfo, top_k: int) -> None:
        """To be called before the first record is written."""
        ...

    def write(self, result: ImageResult) -> None: ...

    def complete(self) -> None:
        """To be called when every source has its record."""
        ...


def open_output(path: Path | None, format_name: str, *, resume: bool = False, retry_errors: bool = False) -> Output:
    """The output that a run's records go to.

    Args:
        path: None and "-" are stdout.
        format_name: one of FORMATS.
        resume: go on with the records that are there.
        retry_errors: but for the failed ones, which are answered again.

    Raises:
        UsageError: it cannot be written, cannot be resumed, or holds what `resume` was not given for.
    """
    if path is not None and str(path) != "-":
        with report_io_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            replaceable = is_replaceable(path)
        if replaceable and format_name in KEPT_FORMATS:
            from imgclassify.output.resumable import ResumableOutput

            return ResumableOutput(path, format_name, resume=resume, retry_errors=retry_errors)
        where = repr(str(path))
    else:
        where = "stdout"
    if resume:
        raise UsageError(
            f"a run that writes {format_name} to {where} cannot be resumed",
            hint=f"name a file with --output, in one of the formats {', '.join(KEPT_FORMATS)}",
        )
    if format_name in FILE_FORMATS:
        raise UsageError(f"{format_name} cannot be written to {where}", hint="name a file with --output")
    from imgclassify.output.streamed import StreamedOutput

    return StreamedOutput(path, format_name)


def open_writer(name: str, stream: TextIO, run: RunInfo, *, top_k: int) -> Writer:
    """The writer of a format that can be streamed.

    Args:
        name: one of FORMATS, but none of FILE_FORMATS.
        top_k: how many predictions the records have, for formats with fixed columns.
    """
    if name == "json":
        from imgclassify.output.json_document import JsonDocumentWriter

        return JsonDocumentWriter(stream, run)
    if name == "jsonl":
        from imgclassify.output.json_lines import JsonLinesWriter

        return JsonLinesWriter(stream)
    if name in ("csv", "tsv"):
        from imgclassify.output.delimited import DELIMITERS, DelimitedWriter

        return DelimitedWriter(stream, top_k=top_k, delimiter=DELIMITERS[name])
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
    suffix = _OTHER_ENDINGS.get(suffix, suffix)
    if suffix in FORMATS:
        return suffix
    raise UsageError(
        f"the ending of {str(path)!r} names no format",
        hint=f"add --format with one of {', '.join(FORMATS)}, or end the name in one of them",
    )
