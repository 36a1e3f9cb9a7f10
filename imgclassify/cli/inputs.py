"""SOURCE arguments and lists of names → sources."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imgclassify.cli import console
from imgclassify.errors import UsageError, describe_error

if TYPE_CHECKING:
    from imgclassify.cli.options import SourceOptions
    from imgclassify.sources import Selection, Source


class SourceInputs:
    """The sources that the user named."""

    def __init__(self, options: SourceOptions, *, offline: bool) -> None:
        """
        Raises:
            UsageError: no image is named, or options do not go together.
        """
        self._names = options.sources or []
        self._list = options.files_from
        self._options = options
        self._offline = offline
        self.selection = self._create_selection()
        """What is taken of folders and archives. It counts what is left out."""
        self._validate()

    @property
    def is_complete(self) -> bool:
        """Whether all names can be read at once. Somebody may still be writing names to a pipe."""
        return self._list is None or Path(self._list).is_file()

    def open_sources(self) -> Iterator[Source]:
        """The sources in order, as they are found.

        Raises:
            UsageError: the list cannot be read.
        """
        return self._expand_all(self.selection, console.print_message, _open_stdin())

    def count_sources(self) -> int | None:
        """How many sources there are. None where a pipe or a tar would have to be read to know it."""
        if not self.is_complete:
            return None
        count = 0
        for source in self.expand_quietly():
            if source.in_memory:
                return None
            count += 1
        return count

    def expand_quietly(self) -> Iterator[Source]:
        """The sources, found again. Prints nothing, counts nothing, and leaves stdin alone."""
        return self._expand_all(self._create_selection(), lambda _message: None, BytesIO())

    def _create_selection(self) -> Selection:
        from imgclassify.sources import Selection

        return Selection(
            include=self._options.include or [],
            exclude=self._options.exclude or [],
            recursive=not self._options.no_recursive,
            hidden=self._options.hidden,
        )

    def _validate(self) -> None:
        if not self._names and self._list is None:
            raise UsageError(
                "no image was named", hint="name files, folders or URLs, - for stdin, or --files-from LIST"
            )
        if self._options.null and self._list is None:
            raise UsageError("-0/--null goes with --files-from", hint="add --files-from FILE, or - for stdin")
        if self._names.count("-") > 1:
            raise UsageError("stdin is named twice, and holds one image", hint="name - once")
        if self._list == "-" and "-" in self._names:
            raise UsageError("stdin cannot be both an image and the list of files", hint="leave one of the two out")

    def _expand_all(self, selection: Selection, notice: Callable[[str], None], stdin: BinaryIO) -> Iterator[Source]:
        from imgclassify.sources import expand, read_names

        expand_some = partial(expand, notice=notice, selection=selection, offline=self._offline)
        named = expand_some(self._names, stdin=stdin)
        if self._list is None:
            return named
        names = stdin if self._list == "-" else _open_list(self._list)
        # Where the list is on stdin, a "-" in it cannot mean an image there.
        image = BytesIO() if self._list == "-" else stdin
        return chain(named, expand_some(read_names(names, null=self._options.null), stdin=image, from_file=True))


def _open_list(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the list {path!r}: {describe_error(error)}", hint="check --files-from"
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
