"""How far a run is, on stderr: drawn on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from imgclassify.cli import console
from imgclassify.cli.stats import RunStats, format_duration

PLAIN_SECONDS = 30.0
"""Between two lines where there is no terminal to draw on."""

_SETTLED_AFTER = 16
"""Images answered before the time that is left is told: the first ones wait for what happens only once."""


class SourceCount:
    """How many pictures there are: known, found out on a thread of its own, or not to be had."""

    def __init__(self, known: int | None, count: Callable[[], int | None]) -> None:
        self.value = known
        self._count = count
        self._sought = known is not None

    def start_counting(self) -> None:
        """Sees to it that the value will be known, if it can be."""
        if not self._sought:
            self._sought = True
            Thread(target=self._count_sources, name="count", daemon=True).start()

    def _count_sources(self) -> None:
        with suppress(Exception):  # whatever is wrong is told where it is in the way of an answer
            self.value = self._count()


@contextmanager
def show_progress(tally: RunStats, total: SourceCount, *, on_terminal: bool) -> Iterator[None]:
    """Shows how far it is; not where the records themselves are printed on the terminal as they come."""
    if on_terminal or not console.shows_progress:
        yield
    elif console.is_terminal():
        total.start_counting()
        with console.draw_line(lambda: progress_line(tally, total.value)):
            yield
    else:
        ended = Event()
        Thread(target=_print_lines, args=(tally, total, ended), name="progress", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _print_lines(tally: RunStats, total: SourceCount, ended: Event) -> None:
    while not ended.wait(PLAIN_SECONDS):
        total.start_counting()
        console.print_message(progress_line(tally, total.value))


def progress_line(tally: RunStats, total: int | None) -> str:
    """Images so far, of how many, how quickly, how many failed, and how long it will yet take."""
    done = tally.resumed + tally.images
    parts = [f"{done:,} of {total:,} images" if total else f"{done:,} images", f"{tally.rate:.1f}/s"]
    if tally.failures:
        parts.append(f"{tally.failures:,} failed")
    if total and total > done and tally.images >= _SETTLED_AFTER:
        parts.append(f"{format_duration((total - done) / tally.rate)} left")
    return ", ".join(parts)
