"""A run of a command that writes a record for each source: from opening its output to the summary at its end."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imgclassify.cli import console
from imgclassify.cli.inputs import SourceInputs
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import RunStats
from imgclassify.errors import ExitStatus, ImgclassifyError, NoImagesError, UsageError

if TYPE_CHECKING:
    from threading import Event

    from imgclassify.cli.options import OutputOptions, SourceOptions, UnattendedOptions
    from imgclassify.output import Output
    from imgclassify.output.records import R, RecordType
    from imgclassify.results import RunInfo
    from imgclassify.sources import Source

LOOK_AHEAD = 4096
"""Sources counted before the first is classified. Where there are more, there are many."""

_STOP_REASONS = {
    "interrupted": "interrupted",
    "terminated": "terminated",
    "hung_up": "its terminal was closed",
    "max_errors": "stopped at the last of the failures that --max-errors or --fail-fast allow",
}


class RecordProducer(Protocol):
    """What makes records of sources, such as a Classifier."""

    run: RunInfo

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[Any, None, None]: ...


class RecordRun:
    """The sources of a run that have no record yet, and the output that their records go to."""

    def __init__(self, inputs: SourceInputs, output: Output, stats: RunStats, *, max_errors: int | None) -> None:
        """
        Raises:
            NoImagesError: there is no source, with or without a record.
        """
        self.stats = stats
        self._output = output
        self._max_errors = max_errors
        stats.resumed, stats.resumed_failed = output.resumed, output.resumed_failed
        pending = (source for source in inputs.open_sources() if not output.claim_record(source.name))
        ahead, ended = _look_ahead(pending, LOOK_AHEAD if inputs.is_complete else 0)
        if not ahead and not stats.resumed:
            raise NoImagesError("no image was found", hint="docs/images.md lists the formats that are opened")
        self._pending: Iterable[Source] = chain(ahead, pending)
        self._num_pending = len(ahead) if ended else None
        total = stats.resumed + len(ahead) if ended else None
        self._total = SourceCount(total, inputs.count_sources)

    @property
    def num_images(self) -> int | None:
        """How many images the whole run has, those of earlier runs too. None for many, or where nobody knows.

        Engine and device are chosen by this number. With it, a resumed run chooses as one that was never stopped,
        and stays on the GPU that it began on.
        """
        output = self._output
        if self._num_pending is None or output.resumed_device not in (None, "cpu"):
            return None
        total = output.resumed + self._num_pending
        return None if total > LOOK_AHEAD else max(total, 1)

    def write_records(self, producer: RecordProducer, settings: dict[str, int]) -> None:
        """Writes a record for every source, until a signal or `max_errors` failures stop it. `stats` says which.

        Args:
            settings: those that the record type names.

        Raises:
            UsageError: the output cannot be written.
        """
        self._output.begin(producer.run, settings)
        self.stats.start_clock(producer.run)
        with GracefulShutdown() as shutdown:
            try:
                if self._write_stream(producer, shutdown) and not shutdown.status:
                    shutdown.waits_for_images = False
                    self._output.complete()
            except KeyboardInterrupt:
                if not shutdown.status:
                    raise
        self.stats.status = ExitStatus.SOME_IMAGES_FAILED if self._output.failed else ExitStatus.OK
        if shutdown.status:
            self.stats.stopped, self.stats.status = shutdown.status.name.lower(), shutdown.status

    def _write_stream(self, producer: RecordProducer, shutdown: GracefulShutdown) -> bool:
        """False where `max_errors` stopped it."""
        with (
            redirect_stdout(console.open_stderr()),  # somebody's network may print while it computes
            closing(producer.stream(self._pending, stop_event=shutdown.stop_requested)) as records,
            show_progress(self.stats, self._total, on_terminal=self._output.on_terminal),
        ):
            for record in records:
                self._output.write(record)
                self.stats.add_record(record)
                if self.stats.failures == self._max_errors:
                    self.stats.stopped = "max_errors"
                    return False
        return True


@contextmanager
def open_run(
    record_type: RecordType[R],
    sources: SourceOptions,
    output: OutputOptions,
    unattended: UnattendedOptions,
    *,
    offline: bool,
    default_format: str = "table",
) -> Iterator[RecordRun]:
    """Opens the output of a run and finds its first sources. At the end of the block, prints how the run went.

    Raises:
        UsageError: options do not go together, or a file cannot be written.
        NoImagesError: there is no source.
    """
    from imgclassify.output import open_output

    output_format = output.find_format(record_type, default=default_format)
    inputs = SourceInputs(sources, offline=offline)
    stats = RunStats(skipped=inputs.selection.skipped)
    if unattended.summary:
        from imgclassify.cli.summary import check_summary_path

        check_summary_path(unattended.summary, output.output)
    resume = unattended.resume or unattended.retry_errors
    opened = open_output(
        record_type, output.output, output_format, resume=resume, retry_errors=unattended.retry_errors
    )
    with _report_on_exit(stats, opened, unattended.summary, output.output), opened:
        max_errors = 1 if unattended.fail_fast else unattended.max_errors
        yield RecordRun(inputs, opened, stats, max_errors=max_errors)


def _look_ahead(sources: Iterator[Source], limit: int) -> tuple[list[Source], bool]:
    """The first sources, one more than `limit` at most; and whether they are all."""
    ahead: list[Source] = []
    for source in sources:
        ahead.append(source)
        if len(ahead) > limit or source.in_memory:
            return ahead, False
    return ahead, True


@contextmanager
def _report_on_exit(
    stats: RunStats, output: Output, summary_path: Path | None, output_path: Path | None
) -> Iterator[None]:
    """Says how the run went, whatever ended it."""
    try:
        yield
    except BaseException as error:
        stats.stopped, stats.status = _end_reason(error)
        raise
    finally:
        stats.stop_clock()
        if stats.run:
            _print_summary(stats, output)
        if summary_path:
            _save_summary(stats, summary_path, output_path)


def _save_summary(stats: RunStats, summary_path: Path, output_path: Path | None) -> None:
    from imgclassify.cli.summary import save_summary

    try:
        save_summary(summary_path, stats.to_dict(output_path))
    except UsageError as error:
        if stats.status in (ExitStatus.OK, ExitStatus.SOME_IMAGES_FAILED):
            raise
        console.print_error(str(error), error.hint)  # beside the error that ended the run


def _end_reason(error: BaseException) -> tuple[str, ExitStatus]:
    """What ended the run, in a word or a sentence, and what the process ends with."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitStatus.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "broken_pipe", ExitStatus.OK
    if isinstance(error, ImgclassifyError):
        return str(error), error.exit_status
    return repr(error), ExitStatus.UNAVAILABLE


def _print_summary(stats: RunStats, output: Output) -> None:
    if stats.stopped == "broken_pipe":
        return  # whoever reads the records has all that was wanted
    if stats.stopped in _STOP_REASONS:
        console.print_message(_STOP_REASONS[stats.stopped])
    if stats.images + stats.resumed + stats.skipped.total() > 1:
        console.print_message(stats.summary_line())
    else:
        console.print_verbose(stats.summary_line())
    if output.unfinished:
        console.print_message(
            f"{output.count:,} records are in {str(output.unfinished)!r}; the same command with --resume goes on"
        )
