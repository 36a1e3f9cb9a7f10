"""stderr: errors, hints, notices and progress, as loud as -q, -v and --debug ask. stdout is never touched here."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from imgclassify.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

debug = False
quiet = False
verbose = False
animated = False
_live: Console | None = None
"""The console of what is being drawn; lines printed beside it would leave its remains standing."""


def configure(*, be_debug: bool, be_quiet: bool = False, be_verbose: bool = False, progress: bool = False) -> None:
    """Sets how loud this process is. Called once, by a command, before it does anything."""
    global debug, quiet, verbose, animated
    debug, quiet, verbose = be_debug, be_quiet, be_verbose or be_debug
    animated = progress and not be_quiet and sys.stderr.isatty()
    handler = _Handler()
    logger = logging.getLogger("imgclassify")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    if not debug:
        # Libraries' warnings are addressed to programmers.
        warnings.simplefilter("ignore")
        logging.getLogger("timm").setLevel(logging.ERROR)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print(f"{record.levelname.lower()}: ", record.getMessage(), style="yellow")


def error(message: str, hint: str | None) -> None:
    """What went wrong, and what to do next."""
    _print("error: ", message, style="bold red")
    if hint:
        _print("hint: ", hint, style="dim")


def say(message: str) -> None:
    """A line for the user, unless -q."""
    if not quiet:
        _print("", message)


def say_verbosely(message: str) -> None:
    """A line for the user, under -v."""
    if verbose:
        _print("", message)


def _console() -> Console:
    from rich.console import Console

    # Made anew each time: sys.stderr may have been replaced since.
    return _live or Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _print(head: str, message: str, *, style: str = "") -> None:
    from rich.text import Text

    lines = (printable(line) for line in message.splitlines())
    _console().print(Text(head, style=style).append("\n".join(lines), style="not bold default"))


@contextmanager
def _drawing() -> Iterator[Console]:
    global _live
    _live = _console()
    try:
        yield _live
    finally:
        _live = None


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A callback that draws a bar for each file being downloaded; None where nothing may be drawn."""
    if not animated:
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bars: dict[str, TaskID] = {}
    with (
        _drawing() as console,
        Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as progress,
    ):

        def show(name: str, received: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(printable(name), total=total)
            progress.update(bars[name], completed=received, total=total)

        yield show


def counted(
    items: Iterable[Item], *, failed: Callable[[Item], bool], shown_as_they_come: bool
) -> Generator[Item, None, None]:
    """The items, with a running count, rate and number of failures on stderr; not where the items themselves are
    printed on the same terminal, or nothing can be drawn."""
    shown: AbstractContextManager[Callable[[Item], None]] = (
        _counter(failed) if animated and not shown_as_they_come else nullcontext(lambda item: None)
    )
    with shown as count:
        for item in items:
            count(item)
            yield item


@contextmanager
def _counter(failed: Callable[[Item], bool]) -> Iterator[Callable[[Item], None]]:
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    with (
        _drawing() as console,
        Progress(
            SpinnerColumn(),
            "{task.completed:.0f} images  {task.fields[rate]}  {task.fields[failures]}",
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress,
    ):
        task = progress.add_task("", total=None, rate="", failures="")
        failures = 0

        def count(item: Item) -> None:
            nonlocal failures
            failures += failed(item)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(
                task,
                advance=1,
                rate=f"{speed:.1f}/s" if speed else "",
                failures=f"{failures} failed" if failures else "",
            )

        yield count
