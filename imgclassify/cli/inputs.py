"""What the user named, on the command line and in a list, as sources."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imgclassify.cli import console
from imgclassify.errors import UsageError, first_line

if TYPE_CHECKING:
    from imgclassify.sources import Selection, Source


@dataclass(frozen=True)
class InputArgs:
    """The names, and what of the folders and archives among them is wanted."""

    names: list[str]
    files_from: str | None
    null: bool
    include: list[str]
    exclude: list[str]
    recursive: bool
    hidden: bool
    offline: bool

    def __post_init__(self) -> None:
        """
        Raises:
            UsageError: they do not fit together.
        """
        if not self.names and self.files_from is None:
            raise UsageError(
                "no picture was named", hint="name files, folders or URLs, - for stdin, or --files-from LIST"
            )
        if self.null and self.files_from is None:
            raise UsageError("-0/--null goes with --files-from", hint="add --files-from FILE, or - for stdin")
        if self.names.count("-") > 1:
            raise UsageError("stdin is named twice, and holds one picture", hint="leave one - out")
        if self.files_from == "-" and "-" in self.names:
            raise UsageError(
                "stdin cannot be both a picture and the list of files", hint="leave one of the two out"
            )

    @property
    def is_complete(self) -> bool:
        """Whether all names are there already; whoever writes a list into a pipe may still be at it."""
        return self.files_from is None or Path(self.files_from).is_file()

    def create_selection(self) -> Selection:
        from imgclassify.sources import Selection

        return Selection(include=self.include, exclude=self.exclude, recursive=self.recursive, hidden=self.hidden)

    def open_sources(self, selection: Selection) -> Iterator[Source]:
        """In order, as they are found. `selection` counts what is left out.

        Raises:
            UsageError: the list cannot be read.
        """
        return self._expand_all(selection, console.print_message, _open_stdin())

    def count_sources(self) -> int | None:
        """How many sources there are, found out anew; None where a pipe or a tar would have to be read for it."""
        if not self.is_complete:
            return None
        count = 0
        for source in self._expand_all(self.create_selection(), _ignore, BytesIO()):
            if source.in_memory:
                return None
            count += 1
        return count

    def _expand_all(self, selection: Selection, notice: Callable[[str], None], stdin: BinaryIO) -> Iterator[Source]:
        from imgclassify.sources import expand, read_names

        expanded = partial(expand, notice=notice, selection=selection, offline=self.offline)
        named = expanded(self.names, stdin=stdin)
        if self.files_from is None:
            return named
        listed = stdin if self.files_from == "-" else _open_list(self.files_from)
        # Where the list is on stdin, a "-" in it can mean no picture there.
        picture = BytesIO() if self.files_from == "-" else stdin
        return chain(named, expanded(read_names(listed, null=self.null), stdin=picture, from_file=True))


def _open_list(files_from: str) -> BinaryIO:
    try:
        return Path(files_from).open("rb")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the list {files_from!r}: {first_line(error)}", hint="check --files-from"
        ) from error


def _open_stdin() -> BinaryIO:
    # A process may have been started without one (`<&-`).
    if sys.stdin is None:
        return BytesIO()
    try:
        # A reader of our own: the interpreter's could not be closed at exit while a thread still waits on it.
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    except (OSError, ValueError):
        return sys.stdin.buffer


def _ignore(_message: str) -> None:
    pass
