"""The progress of a run on stderr: one redrawn line on a terminal, else a plain line every PLAIN_SECONDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from imgclassify.cli import console
from imgclassify.cli.stats import RunStats, count_of, format_duration

PLAIN_SECONDS = 30.0
"""Seconds between two lines if stderr is not a terminal."""

_SETTLED_AFTER = 16
"""Images before the time left is estimated. The first ones include one-time work, which would distort it."""


class SourceCount:
    """The number of sources: known from the start, counted on a thread of its own, or unknown."""

    def __init__(self, known: int | None, count: Callable[[], int | None]) -> None:
        self.value = known
        self._count = count
        self._started = known is not None

    def start_counting(self) -> None:
        """Starts to count in the background, unless the number is known or counting has started."""
        if not self._started:
            self._started = True
            Thread(target=self._count_sources, name="count", daemon=True).start()

    def _count_sources(self) -> None:
        with suppress(Exception):  # what is wrong with a source is in its record
            self.value = self._count()


@contextmanager
def show_progress(stats: RunStats, total: SourceCount, *, on_terminal: bool) -> Iterator[None]:
    """Shows the progress during the block, unless the records themselves are printed on a terminal."""
    if on_terminal:
        yield
        return
    with show_line(lambda: progress_line(stats, total.value), before_first=total.start_counting):
        yield


@contextmanager
def show_line(line: Callable[[], str], *, before_first: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Shows a line that changes during the block, if progress may be shown.

    Args:
        before_first: called before the first line, early enough for it to change the line.
    """
    if not console.shows_progress:
        yield
    elif console.is_terminal():
        before_first()
        with console.draw_line(line):
            yield
    else:
        ended = Event()
        Thread(target=_print_lines, args=(line, before_first, ended), name="progress", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _print_lines(line: Callable[[], str], before_first: Callable[[], None], ended: Event) -> None:
    # Counting begins before the first line, so that the line has the total. It does not begin at once, because
    # short runs end before their first line.
    if ended.wait(PLAIN_SECONDS / 2):
        return
    before_first()
    pause = PLAIN_SECONDS / 2
    while not ended.wait(pause):
        console.print_message(line())
        pause = PLAIN_SECONDS


def progress_line(stats: RunStats, total: int | None) -> str:
    """Returns a line with the images so far, their total, images per second, failures and the time left.

    Images with a record from an earlier run count as done. Such records of other images do not count.
    """
    done = stats.claimed + stats.images
    count = f"{done:,} of {count_of(total, 'image')}" if total else count_of(done, "image")
    parts = [count, f"{stats.rate:.1f}/s"]
    if stats.failures:
        parts.append(f"{stats.failures:,} failed")
    if total and total > done and stats.images >= _SETTLED_AFTER:
        parts.append(f"{format_duration((total - done) / stats.rate)} left")
    return ", ".join(parts)
