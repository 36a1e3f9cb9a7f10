"""The rich console for results: colour only on a terminal, no markup, lines not folded."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console


class _ResultsConsole(Console):
    def on_broken_pipe(self) -> None:
        """rich would end the process with status 1; a reader that has gone is no failure (cli/edge.py)."""
        raise BrokenPipeError


def results_console(stream: TextIO) -> Console:
    """A console that writes to `stream`, and takes it for a terminal if it is one, whatever FORCE_COLOR says."""
    return _ResultsConsole(
        file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=stream.isatty()
    )
