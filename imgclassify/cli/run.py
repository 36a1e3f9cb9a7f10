"""A run of predict, from its first record to what is told of it in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify.cli import console, progress
from imgclassify.cli.progress import SourceCount
from imgclassify.cli.shutdown import GracefulShutdown
from imgclassify.cli.stats import RunStats
from imgclassify.errors import ExitStatus, ImgclassifyError, UsageError

if TYPE_CHECKING:
    from imgclassify.classifier import Classifier
    from imgclassify.output import Output
    from imgclassify.sources import Source

_REASONS = {
    "interrupted": "interrupted",
    "terminated": "terminated",
    "hung_up": "its terminal was closed",
    "max_errors": "stopped at the last of the failures that --max-errors or --fail-fast allow",
}


def run_to_output(
    classifier: Classifier,
    pictures: Iterable[Source],
    output: Output,
    tally: RunStats,
    total: SourceCount,
    *,
    max_errors: int | None,
) -> None:
    """Writes a record for every picture, or until a signal or `max_errors` failures stop it; `tally` says which.

    Raises:
        UsageError: the output cannot be written.
    """
    output.begin(classifier.run, classifier.top_k)
    tally.start_clock(classifier.run)
    with GracefulShutdown() as stopping:
        try:
            whole = _write_records(classifier, pictures, output, tally, total, stopping, max_errors)
            if whole and not stopping.status:
                stopping.waits_for_images = False
                output.complete()
        except KeyboardInterrupt:
            if not stopping.status:
                raise
    tally.status = ExitStatus.SOME_IMAGES_FAILED if output.failed else ExitStatus.OK
    if stopping.status:
        tally.stopped, tally.status = stopping.status.name.lower(), stopping.status


def _write_records(
    classifier: Classifier,
    pictures: Iterable[Source],
    output: Output,
    tally: RunStats,
    total: SourceCount,
    stopping: GracefulShutdown,
    max_errors: int | None,
) -> bool:
    """Whether all results there are were written."""
    with (
        redirect_stdout(console.open_stderr()),  # a foreign network may print while it computes
        closing(classifier.stream(pictures, stop_event=stopping.stop_requested)) as results,
        progress.show_progress(tally, total, on_terminal=output.on_terminal),
    ):
        for result in results:
            output.write(result)
            tally.add_record(result)
            if tally.failures == max_errors:
                tally.stopped = "max_errors"
                return False
    return True


@contextmanager
def report_on_exit(tally: RunStats, output: Output, path: Path | None, place: Path | None) -> Iterator[None]:
    """Tells in the end how the run went, whatever ended it.

    Args:
        path: where to write it as JSON, too.
        place: the output's name.
    """
    try:
        yield
    except BaseException as error:
        tally.stopped, tally.status = _end_reason(error)
        raise
    finally:
        tally.stop_clock()
        if tally.run:
            _print_summary(tally, output)
        if path:
            _save_summary(tally, path, place)


def _save_summary(tally: RunStats, path: Path, place: Path | None) -> None:
    from imgclassify.cli import summary

    try:
        summary.save_summary(path, tally.to_dict(place))
    except UsageError as error:
        if tally.status in (ExitStatus.OK, ExitStatus.SOME_IMAGES_FAILED):
            raise
        console.print_error(str(error), error.hint)  # and what ended the run is told besides


def _end_reason(error: BaseException) -> tuple[str, ExitStatus]:
    """What ended the run, in a word or a sentence, and what the process ends with."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitStatus.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "broken_pipe", ExitStatus.OK
    if isinstance(error, ImgclassifyError):
        return str(error), error.exit_status
    return repr(error), ExitStatus.UNAVAILABLE


def _print_summary(tally: RunStats, output: Output) -> None:
    if tally.stopped == "broken_pipe":
        return  # whoever reads the records has all that was wanted
    if tally.stopped in _REASONS:
        console.print_message(_REASONS[tally.stopped])
    if tally.images + tally.resumed + tally.skipped.total() > 1:
        console.print_message(tally.summary_line())
    else:
        console.print_verbose(tally.summary_line())
    if output.unfinished:
        console.print_message(
            f"{output.count:,} records are in {str(output.unfinished)!r}; the same command with --resume goes on"
        )
