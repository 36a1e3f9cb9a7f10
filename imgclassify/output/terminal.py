"""Prints lines for people: in colour on a terminal, with rich, and plain in a pipe, without importing rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class Line:
    """Text in parts, each with a rich style. The first part's style is the base of the others' styles."""

    def __init__(self, text: str = "", style: str = "") -> None:
        self._parts = [(text, style)]

    def append(self, text: str, style: str = "") -> None:
        self._parts.append((text, style))

    @property
    def plain(self) -> str:
        return "".join(text for text, _ in self._parts)

    def styled(self) -> Text:
        from rich.text import Text

        (first, ground), *others = self._parts
        text = Text(first, style=ground)
        for part, style in others:
            text.append(part, style=style)
        return text


class LinePrinter:
    """Prints lines to a stream, in colour only if it is a terminal, whatever FORCE_COLOR says."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = _console(stream) if stream.isatty() else None

    @property
    def width(self) -> int | None:
        """The terminal's width in cells; None if the stream is not a terminal."""
        return self._console.width if self._console else None

    def print(self, line: Line, *, cut: bool = False) -> None:
        """Prints a line without trailing spaces.

        Args:
            cut: on a terminal, cut the line at its width.
        """
        if self._console is None:
            self._stream.write(f"{line.plain.rstrip()}\n")
        else:
            text = line.styled()
            text.rstrip()
            if cut:
                text.truncate(self._console.width, overflow="ellipsis")
            self._console.print(text)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    class ResultsConsole(Console):
        def on_broken_pipe(self) -> None:
            """Raises BrokenPipeError, for cli/error_handling.py. rich would exit with status 1, but a closed
            pipe is not a failure."""
            raise BrokenPipeError

    return ResultsConsole(
        file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True, force_terminal=True
    )
