"""The destination of a run's records: stdout, or a file that a stopped run can be resumed in."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from imgclassify.errors import UsageError
from imgclassify.files import has_content, is_replaceable
from imgclassify.output.formats import OutputFormat, list_formats

if TYPE_CHECKING:
    from imgclassify.output.records import R, RecordType
    from imgclassify.results import RunInfo


class Output(Protocol):
    """The destination of a run's records. Used in a with statement."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def on_terminal(self) -> bool:
        """Whether the records are printed on a terminal."""
        ...

    @property
    def unseen(self) -> bool:
        """Whether the records go to a file, so that a user who watches does not see them."""
        ...

    @property
    def unfinished(self) -> Path | None:
        """The file with the records so far, if the run can be resumed from it; otherwise None."""
        ...

    resumed: int
    """Number of records from earlier runs that are kept."""
    resumed_failed: int
    """How many of the kept records have an error."""

    @property
    def resumed_device(self) -> str | None:
        """The device that computed the earlier records; None if there are none, or if they name no device."""
        ...

    @property
    def count(self) -> int:
        """Number of all records, including those of earlier runs."""
        ...

    @property
    def failed(self) -> int:
        """How many of all records have an error."""
        ...

    def earlier_sources(self) -> Iterator[str]:
        """Yields the source of each record from earlier runs."""
        ...

    def claim_record(self, source: str) -> bool:
        """Marks one earlier record of `source` as used and returns True. Returns False if none is left.

        Call it once each time a source is named, so that a source named twice gets two records.
        """
        ...

    def earlier_records(self) -> Iterator[Any]:
        """Yields the records from earlier runs, without those that were left out. Called before `write`."""
        ...

    def begin(
        self, run: RunInfo, settings: dict[str, int | str], selects: Callable[[Any], bool] | None = None
    ) -> None:
        """Takes the provenance of the records. Called before the first record is written.

        Args:
            settings: the values of the settings that the record type names.
            selects: returns whether a record belongs to the output. The others are left out, but a resumed run
                knows that their sources have a record. None selects all.
        """
        ...

    def write(self, record: Any) -> bool:
        """Takes a record. Returns False if it is left out."""
        ...

    def complete(self) -> None:
        """Finishes the output. Called when every source has its record."""
        ...


def open_output(
    record_type: RecordType[R],
    path: Path | None,
    output_format: OutputFormat,
    *,
    resume: bool = False,
    retry_errors: bool = False,
    overwrite: bool = False,
) -> Output:
    """Opens the output for the records of a run.

    Args:
        path: the output file; None and "-" mean stdout.
        resume: continue with the records that are already there.
        retry_errors: with `resume`, also classify the failed sources again.
        overwrite: start again, and replace an earlier output when the run is complete. The records of a stopped
            run are discarded when the first record of this run can be written.

    Raises:
        UsageError: the output cannot be written or resumed, or there is an earlier output or a stopped run's, and
            neither `resume` nor `overwrite` is set. Both cannot be.
    """
    if resume and overwrite:
        raise UsageError(
            "--overwrite cannot be combined with --resume or --retry-errors",
            hint="--resume keeps the records that are there; --overwrite starts again: leave one of them out",
        )
    if path is not None and str(path) != "-":
        from imgclassify.output.text_stream import report_io_errors

        with report_io_errors(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            replaceable = is_replaceable(path)
        if replaceable and output_format.resumable:
            from imgclassify.output.resumable import ResumableOutput

            return ResumableOutput(
                path, output_format, record_type, resume=resume, retry_errors=retry_errors, overwrite=overwrite
            )
        place = repr(str(path))
    else:
        place = "stdout"
    if resume:
        resumable = ", ".join(each.name for each in list_formats(record_type) if each.resumable)
        raise UsageError(
            f"a run that writes {output_format.name} to {place} cannot be resumed",
            hint=f"name a file with --output, in one of these formats: {resumable}",
        )
    if not output_format.streamable:
        raise UsageError(f"{output_format.name} cannot be written to {place}", hint="name a file with --output")
    if not overwrite:
        require_no_result(path)
    from imgclassify.output.streamed import StreamedOutput

    return StreamedOutput(path, output_format, record_type)


def require_no_result(path: Path | None, *, resumable: bool = False, option: str = "--output") -> None:
    """Checks that writing to `path` replaces no earlier result.

    Args:
        path: the output file; None and "-" mean stdout.
        resumable: whether the hint may name --resume.
        option: the option that gives the path, for the hint.

    Raises:
        UsageError: there is a file that is not empty.
    """
    if path is None or str(path) == "-":
        return
    from imgclassify.output.text_stream import report_io_errors

    with report_io_errors(path, option=option):
        exists = has_content(path)
    if exists:
        keep = "--resume to keep its records and process only the other sources, " if resumable else ""
        raise UsageError(
            f"{str(path)!r} exists already",
            hint=f"add {keep}--overwrite to replace it, or choose another {option}",
        )
