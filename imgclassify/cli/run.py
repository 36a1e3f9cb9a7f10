"""A run of a command that writes one record per source, from opening the output to printing the summary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imgclassify.cli import console
from imgclassify.cli.inputs import SourceInputs, no_images_error
from imgclassify.cli.progress import SourceCount, show_progress
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import RunStats, count_of
from imgclassify.errors import ExitStatus, ImgclassifyError, UsageError

if TYPE_CHECKING:
    from threading import Event

    from imgclassify.cli.options.output import OutputOptions
    from imgclassify.cli.options.sources import FrameOptions, SourceOptions
    from imgclassify.cli.options.unattended import DecodingOptions, UnattendedOptions
    from imgclassify.output import Output
    from imgclassify.output.records import R, RecordType
    from imgclassify.results import RunInfo
    from imgclassify.sources import Source

LOOK_AHEAD = 4096
"""At most this many sources are counted before the first is classified. A run with more counts as large."""

logger = logging.getLogger("imgclassify")

_STOP_REASONS = {
    "interrupted": "interrupted",
    "terminated": "terminated",
    "hung_up": "stopped because the terminal was closed",
    "max_errors": "stopped because --max-errors or --fail-fast allows no more failures",
}


class RecordProducer(Protocol):
    """Produces one record per source, as a Classifier does."""

    run: RunInfo

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[Any, None, None]: ...


class RecordRun:
    """The sources of a run that have no record yet, and the output for their records."""

    def __init__(
        self,
        inputs: SourceInputs,
        output: Output,
        stats: RunStats,
        *,
        settings: dict[str, int | str],
        max_errors: int | None,
    ) -> None:
        """
        Args:
            settings: what the records depend on of how images are found and decoded.

        Raises:
            NoImagesError: there is neither a source nor an earlier record.
        """
        self.stats = stats
        self._output = output
        self._settings = settings
        self._max_errors = max_errors
        stats.resumed, stats.resumed_failed = output.resumed, output.resumed_failed
        pending = self._find_pending(inputs)
        ahead, ended = _look_ahead(pending, LOOK_AHEAD if inputs.is_complete else 0)
        if not ahead and not stats.resumed:
            raise no_images_error(inputs.selection)
        if ahead and stats.resumed and not stats.claimed:
            _warn_of_mismatch([source.name for source in ahead], output, all_known=ended)
        self._pending: Iterable[Source] = chain(ahead, pending)
        self._num_pending = len(ahead) if ended else None
        total = stats.claimed + len(ahead) if ended else None
        self._total = SourceCount(total, inputs.count_sources)

    @property
    def num_images(self) -> int | None:
        """The number of images, including those with a record. None if it is unknown or above LOOK_AHEAD.

        Engine and device are chosen by this number. A resumed run therefore makes the same choice as a run that
        was never stopped. If the earlier records were computed on a GPU, the number is None. This keeps the run
        on the GPU.
        """
        output = self._output
        if self._num_pending is None or output.resumed_device not in (None, "cpu"):
            return None
        total = output.resumed + self._num_pending
        return None if total > LOOK_AHEAD else max(total, 1)

    def _find_pending(self, inputs: SourceInputs) -> Iterator[Source]:
        """Yields the sources without a record, and counts the others."""
        for source in inputs.open_sources():
            if self._output.claim_record(source.name):
                self.stats.claimed += 1
            else:
                yield source

    def write_records(
        self,
        producer: RecordProducer,
        settings: dict[str, int | str],
        *,
        selects: Callable[[Any], bool] | None = None,
        count: Callable[[Any], None] | None = None,
    ) -> None:
        """Writes one record per source until a signal or `max_errors` failures stop the run.

        Sets `stats.status`, and `stats.stopped` if the run is stopped.

        Args:
            settings: the settings that the record type names, such as "top_k", besides those of this run.
            selects: returns whether a record belongs to the output. None selects all.
            count: called with each record of the output, also with those of earlier runs.

        Raises:
            UsageError: the output cannot be written, or its earlier records are of another model or settings.
        """
        _report_origins(producer.run)
        self._output.begin(producer.run, {**settings, **self._settings}, selects)
        if count:
            for record in self._output.earlier_records():
                count(record)
        self.stats.start_clock(producer.run)
        with GracefulShutdown() as shutdown:
            try:
                if self._write_stream(producer, shutdown, count) and not shutdown.status:
                    shutdown.waits_for_images = False  # none is in flight: a signal now interrupts at once
                    self._output.complete()
            except KeyboardInterrupt:
                if not shutdown.status:
                    raise
        self.stats.status = ExitStatus.SOME_IMAGES_FAILED if self._output.failed else ExitStatus.OK
        if shutdown.status:
            self.stats.stopped, self.stats.status = shutdown.status.name.lower(), shutdown.status

    def _write_stream(
        self, producer: RecordProducer, shutdown: GracefulShutdown, count: Callable[[Any], None] | None
    ) -> bool:
        """Returns False if `max_errors` stopped the run, else True."""
        with (
            redirect_stdout(console.open_stderr()),  # a network's own code may print
            closing(producer.stream(self._pending, stop_event=shutdown.stop_requested)) as records,
            show_progress(self.stats, self._total, on_terminal=self._output.on_terminal),
        ):
            for record in records:
                selected = self._output.write(record)
                self.stats.add_record(record, selected=selected)
                if count and selected:
                    count(record)
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
    frames: FrameOptions,
    decoding: DecodingOptions,
    *,
    offline: bool,
    default_format: str = "table",
) -> Iterator[RecordRun]:
    """Opens the output of a run and finds its first sources. Prints the summary at the end of the block.

    Raises:
        UsageError: options conflict, or a file cannot be written.
        NoImagesError: there is neither a source nor an earlier record.
    """
    from imgclassify.output import open_output

    output_format = output.find_format(record_type, default=default_format)
    inputs = SourceInputs(sources, offline=offline, frames=frames.selection, decoding=decoding)
    stats = RunStats(skipped=inputs.selection.skipped, skipped_extensions=inputs.selection.skipped_extensions)
    if unattended.summary:
        from imgclassify.cli.summary import check_summary_path

        check_summary_path(unattended.summary, output.output)
    resume = unattended.resume or unattended.retry_errors
    opened = open_output(
        record_type,
        output.output,
        output_format,
        resume=resume,
        retry_errors=unattended.retry_errors,
        overwrite=output.overwrite,
    )
    with _report_on_exit(stats, opened, unattended.summary, output), opened:
        max_errors = 1 if unattended.fail_fast else unattended.max_errors
        settings = {**frames.to_settings(), **decoding.to_settings()}
        yield RecordRun(inputs, opened, stats, settings=settings, max_errors=max_errors)


def _look_ahead(sources: Iterator[Source], limit: int) -> tuple[list[Source], bool]:
    """Reads sources until there are more than `limit`, or until one is in memory.

    Returns:
        These sources, and whether there are no others.
    """
    ahead: list[Source] = []
    for source in sources:
        ahead.append(source)
        if len(ahead) > limit or source.in_memory:
            return ahead, False
    return ahead, True


def _warn_of_mismatch(names: list[str], output: Output, *, all_known: bool) -> None:
    """Warns that no source of a resumed run has a record, with the likely reason.

    Args:
        names: the names of the first sources.
        all_known: whether there are no others.
    """
    from imgclassify.output.renamed_sources import find_mismatch

    mismatch = find_mismatch(names, output.earlier_sources())
    if not mismatch:
        return
    images = f"{'' if all_known else 'the first '}{len(names):,}"
    earlier = count_of(output.resumed, "earlier record")
    said = f"no image of this run ({images}) is among the {earlier}, so all are processed"
    if mismatch.same_file or mismatch.same_ending:
        verb = "is" if mismatch.same_file else "may be"
        logger.warning(
            "%s: %r %s the same file as %r there, but names are compared as given; "
            "name the sources as before, from the same folder",
            *(said, mismatch.now, verb, mismatch.earlier),
        )
    elif all_known:
        console.print_message(f"{said}: {mismatch.earlier!r} is there, and {mismatch.now!r} is not")


@contextmanager
def _report_on_exit(
    stats: RunStats, output: Output, summary_path: Path | None, options: OutputOptions
) -> Iterator[None]:
    """Prints and saves the summary of a run, however it ends."""
    try:
        yield
    except BaseException as error:
        stats.stopped, stats.status = _end_reason(error)
        raise
    finally:
        stats.stop_clock()
        if stats.run:
            _print_summary(stats, output, overwrite=options.overwrite)
        if summary_path:
            _save_summary(stats, summary_path, options.output)


def _save_summary(stats: RunStats, summary_path: Path, output_path: Path | None) -> None:
    from imgclassify.cli.summary import save_summary

    try:
        save_summary(summary_path, stats.to_dict(output_path))
    except UsageError as error:
        if stats.status in (ExitStatus.OK, ExitStatus.SOME_IMAGES_FAILED):
            raise
        console.print_error(str(error), error.hint)  # in addition to the error that ended the run


def _end_reason(error: BaseException) -> tuple[str, ExitStatus]:
    """Returns what ended the run, as a word or a message, and the exit status."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitStatus.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "broken_pipe", ExitStatus.OK
    if isinstance(error, ImgclassifyError):
        return str(error), error.exit_status
    return repr(error), ExitStatus.UNAVAILABLE


def _print_summary(stats: RunStats, output: Output, *, overwrite: bool) -> None:
    if stats.stopped == "broken_pipe":
        return  # the reader of the records has stopped early
    if stats.stopped in _STOP_REASONS:
        console.print_message(_STOP_REASONS[stats.stopped])
    told = stats.images + stats.resumed + stats.skipped.total() > 1 or stats.resumed_failed or stats.left_out
    if told or (stats.failures and output.unseen):
        console.print_message(stats.summary_line())
    else:
        console.print_verbose(stats.summary_line())
    if stats.answered and stats.num_without_extension > stats.images:
        console.print_message(
            f"{count_of(stats.num_without_extension, 'file')} without a file extension were left out; "
            "--any-name looks into every file"
        )
    if stats.resumed_failed and stats.status is ExitStatus.SOME_IMAGES_FAILED and not stats.failures:
        each = "it" if stats.resumed_failed == 1 else "them"
        console.print_message(
            f"the exit status is {int(stats.status)} because {count_of(stats.resumed_failed, 'image')} failed "
            f"before; --retry-errors tries {each} again"
        )
    if output.unfinished:
        console.print_message(
            f"{count_of(output.count, 'record')} {'is' if output.count == 1 else 'are'} in "
            f"{str(output.unfinished)!r}; run the same command with --resume"
            f"{' instead of --overwrite' if overwrite else ''} to continue"
        )


def _report_origins(run: RunInfo) -> None:
    """Prints what was found in the model's own files."""
    if run.origins:
        console.print_message(f"{run.model} comes with {console.format_origins(run.origins)}")
