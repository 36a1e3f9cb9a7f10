"""Errors, hints, notices and progress on stderr, as -q, -v and --debug select. stdout is never used here."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

from imgclassify.errors import make_printable

if TYPE_CHECKING:
    from rich.console import Console

_ORIGINS = {"arch": "architecture", "labels": "class names", "preprocess": "preprocessing"}

debug = False
quiet = False
verbose = False
shows_progress = False
"""Whether progress may be shown."""
_live: Console | None = None
"""The console of the live display, if there is one. Lines printed past it would leave traces of the display."""


def configure_console(
    *, be_debug: bool, be_quiet: bool = False, be_verbose: bool = False, show_progress: bool = False
) -> None:
    """Sets how much this process prints on stderr. A command calls it once, before anything else."""
    global debug, quiet, verbose, shows_progress
    debug, quiet, verbose = be_debug, be_quiet, be_verbose or be_debug
    shows_progress = show_progress and not be_quiet
    handler = _Handler()
    logger = logging.getLogger("imgclassify")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    if not debug:
        # Libraries' warnings are meant for programmers, not for users.
        warnings.simplefilter("ignore")
        logging.getLogger("timm").setLevel(logging.ERROR)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print_line(f"{record.levelname.lower()}: ", record.getMessage(), style="yellow")


def print_error(message: str, hint: str | None) -> None:
    """Prints an error and its hint, also with -q."""
    _print_line("error: ", message, style="bold red")
    if hint:
        print_hint(hint)


def print_hint(hint: str) -> None:
    """Prints what the user may do next, also with -q."""
    _print_line("hint: ", hint, style="bold cyan")


def print_message(message: str) -> None:
    """Prints a line, unless -q was given."""
    if not quiet:
        _print_line("", message)


def format_origins(origins: Mapping[str, str]) -> str:
    """Returns RunInfo.origins in words: "class names (labels.txt), preprocessing (config.json)"."""
    return ", ".join(f"{_ORIGINS.get(name, name)} ({origin})" for name, origin in origins.items())


def print_verbose(message: str) -> None:
    """Prints a line if -v or --debug was given."""
    if verbose:
        _print_line("", message)


def _get_console() -> Console:
    from rich.console import Console

    # A new console each time, because sys.stderr may have been replaced.
    return _live or Console(file=open_stderr(), highlight=False, markup=False, emoji=False, soft_wrap=True)


def open_stderr() -> IO[str]:
    """Returns stderr with write errors ignored, so that a run continues if its reader or terminal is gone."""
    return cast(IO[str], _Stderr(sys.stderr))


class _Stderr:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def is_terminal() -> bool:
    return sys.stderr.isatty()


def _print_line(head: str, message: str, *, style: str = "") -> None:
    lines = (head + "\n".join(make_printable(line) for line in message.splitlines())).split("\n")
    if not is_terminal():
        open_stderr().write("\n".join(lines) + "\n")
        return
    from rich.text import Text

    console = _get_console()
    text = Text("\n".join(part for line in lines for part in _wrap(line, console.width)))
    text.stylize(style, 0, len(head))
    console.print(text)


def _wrap(line: str, width: int) -> Iterator[str]:
    """Breaks a line between words. A word that is longer than the width, such as a path or a URL, stays whole."""
    from rich.cells import cell_len

    first, *words = line.split(" ")
    for word in words:
        if cell_len(f"{first} {word}") > width:
            yield first
            first = word
        else:
            first += f" {word}"
    yield first


@contextmanager
def _live_console() -> Iterator[Console]:
    global _live
    _live = _get_console()
    try:
        yield _live
    finally:
        _live = None


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Yields a callback that draws a bar for each file being downloaded, or None if nothing may be drawn."""
    if not (shows_progress and is_terminal()):
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
        _live_console() as console,
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
                bars[name] = progress.add_task(make_printable(name), total=total)
            progress.update(bars[name], completed=received, total=total)

        yield show


@contextmanager
def draw_line(line: Callable[[], str]) -> Iterator[None]:
    """Draws a changing line on a terminal until the block ends."""
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots")

    def current() -> Spinner:
        spinner.update(text=line())
        return spinner

    with (
        _live_console() as console,
        Live(get_renderable=current, console=console, transient=True, refresh_per_second=8),
    ):
        yield
