"""Records out. `formats.py` lists the formats, each of which has a file of its own; `records.py` says what a kind
of record is. Nothing here sees a tensor or an image."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from imgclassify.errors import UsageError
from imgclassify.output.formats import OutputFormat, list_formats

if TYPE_CHECKING:
    from imgclassify.output.records import R, RecordType
    from imgclassify.results import RunInfo


class Writer(Protocol):
    """Writes the records of a streamable format to a text stream.

    It is created with (stream, provenance, record type), and used in a with statement. When that ends, for whatever
    reason, the stream holds whole records.
    """

    def __enter__(self) -> Self: ...

    def write(self, record: Any) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Output(Protocol):
    """Where the records of a run go. Used in a with statement."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def on_terminal(self) -> bool:
        """Whether somebody reads the records as they come."""
        ...

    @property
    def unfinished(self) -> Path | None:
        """The file with the records of a stopped run, if it can be resumed."""
        ...

    resumed: int
    """Records that were there before this run, and stay."""
    resumed_failed: int
    """Of them, those of sources that failed."""

    @property
    def resumed_device(self) -> str | None:
        """The device that the earlier records were computed on; None where there are none, or they do not say."""
        ...

    @property
    def count(self) -> int:
        """All records, earlier ones too."""
        ...

    @property
    def failed(self) -> int:
        """Of them, those of sources that failed."""
        ...

    def claim_record(self, source: str) -> bool:
        """Whether an earlier run has left a record for this source. Each record counts once: call it once for each
        time that the source is named."""
        ...

    def begin(self, run: RunInfo, settings: dict[str, int]) -> None:
        """Called before the first record is written.

        Args:
            settings: those that the record type names.
        """
        ...

    def write(self, record: Any) -> None: ...

    def complete(self) -> None:
        """Called when every source has its record."""
        ...


def open_output(
    record_type: RecordType[R],
    path: Path | None,
    output_format: OutputFormat,
    *,
    resume: bool = False,
    retry_errors: bool = False,
) -> Output:
    """The output for the records of a run.

    Args:
        path: None and "-" are stdout.
        resume: go on with the records that are there.
        retry_errors: as `resume`, but classify the failed sources again.

    Raises:
        UsageError: it cannot be written, cannot be resumed, or holds the records of a stopped run without `resume`.
    """
    if path is not None and str(path) != "-":
        from imgclassify.files import is_replaceable
        from imgclassify.output.text_stream import report_io_errors

        with report_io_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            replaceable = is_replaceable(path)
        if replaceable and output_format.resumable:
            from imgclassify.output.resumable import ResumableOutput

            return ResumableOutput(path, output_format, record_type, resume=resume, retry_errors=retry_errors)
        place = repr(str(path))
    else:
        place = "stdout"
    if resume:
        resumable = ", ".join(each.name for each in list_formats(record_type) if each.resumable)
        raise UsageError(
            f"a run that writes {output_format.name} to {place} cannot be resumed",
            hint=f"name a file with --output, in one of the formats {resumable}",
        )
    if not output_format.streamable:
        raise UsageError(f"{output_format.name} cannot be written to {place}", hint="name a file with --output")
    from imgclassify.output.streamed import StreamedOutput

    return StreamedOutput(path, output_format, record_type)
