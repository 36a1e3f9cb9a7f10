"""A run of predict, from its first record to what is told of it in the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from imgclassify.cli import console, progress
from imgclassify.cli.progress import Total
from imgclassify.cli.shutdown import Stopping
from imgclassify.cli.stats import Tally
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


def answer(
    classifier: Classifier,
    pictures: Iterable[Source],
    output: Output,
    tally: Tally,
    total: Total,
    *,
    max_errors: int | None,
) -> None:
    """Writes a record for every picture, or until a signal or `max_errors` failures stop it; `tally` says which.

    Raises:
        UsageError: the output cannot be written.
    """
    output.begin(classifier.run, classifier.top_k)
    tally.begin(classifier.run)
    with Stopping() as stopping:
        try:
            whole = _answer(classifier, pictures, output, tally, total, stopping, max_errors)
            if whole and not stopping.status:
                stopping.in_flight = False
                output.complete()
        except KeyboardInterrupt:
            if not stopping.status:
                raise
    tally.status = ExitStatus.SOME_IMAGES_FAILED if output.failed else ExitStatus.OK
    if stopping.status:
        tally.stopped, tally.status = stopping.status.name.lower(), stopping.status


def _answer(
    classifier: Classifier,
    pictures: Iterable[Source],
    output: Output,
    tally: Tally,
    total: Total,
    stopping: Stopping,
    max_errors: int | None,
) -> bool:
    """Whether all results there are were written."""
    with (
        redirect_stdout(console.stderr()),  # a foreign network may print while it computes
        closing(classifier.stream(pictures, ending=stopping.asked)) as results,
        progress.shown(tally, total, on_terminal=output.on_terminal),
    ):
        for result in results:
            output.write(result)
            tally.add(result)
            if tally.failures == max_errors:
                tally.stopped = "max_errors"
                return False
    return True


@contextmanager
def summarised(tally: Tally, output: Output, path: Path | None, place: Path | None) -> Iterator[None]:
    """Tells in the end how the run went, whatever ended it.

    Args:
        path: where to write it as JSON, too.
        place: the output's name.
    """
    try:
        yield
    except BaseException as error:
        tally.stopped, tally.status = _cause(error)
        raise
    finally:
        tally.end()
        if tally.run:
            _tell(tally, output)
        if path:
            _save(tally, path, place)


def _save(tally: Tally, path: Path, place: Path | None) -> None:
    from imgclassify.cli import summary

    try:
        summary.save(path, tally.to_dict(place))
    except UsageError as error:
        if tally.status in (ExitStatus.OK, ExitStatus.SOME_IMAGES_FAILED):
            raise
        console.error(str(error), error.hint)  # and what ended the run is told besides


def _cause(error: BaseException) -> tuple[str, ExitStatus]:
    """What ended the run, in a word or a sentence, and what the process ends with."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ExitStatus.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "broken_pipe", ExitStatus.OK
    if isinstance(error, ImgclassifyError):
        return str(error), error.exit_status
    return repr(error), ExitStatus.UNAVAILABLE


def _tell(tally: Tally, output: Output) -> None:
    if tally.stopped == "broken_pipe":
        return  # whoever reads the records has all that was wanted
    if tally.stopped in _REASONS:
        console.say(_REASONS[tally.stopped])
    if tally.images + tally.resumed + tally.skipped.total() > 1:
        console.say(tally.line())
    else:
        console.say_verbosely(tally.line())
    if output.unfinished:
        console.say(
            f"{output.count:,} records are in {str(output.unfinished)!r}; the same command with --resume goes on"
        )
