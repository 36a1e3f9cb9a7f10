"""Converts SOURCE arguments and the list of --files-from to sources."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from imgclassify.cli import console
from imgclassify.errors import NoImagesError, UsageError, describe_error

if TYPE_CHECKING:
    from imgclassify.cli.options.sources import SourceOptions
    from imgclassify.cli.options.unattended import DecodingOptions
    from imgclassify.images.frame_sources import ListFrames
    from imgclassify.images.frames import FrameSelection
    from imgclassify.sources import Selection, Source


class SourceInputs:
    """The sources that the user named."""

    def __init__(
        self,
        options: SourceOptions,
        *,
        offline: bool,
        frames: FrameSelection | None = None,
        decoding: DecodingOptions | None = None,
    ) -> None:
        """
        Args:
            frames: the frames to take of a file that has several, each as a source. None takes each file whole.
            decoding: the limits under which files are opened to find their frames.

        Raises:
            UsageError: no source is given, or options conflict.
        """
        self._names = options.sources or []
        self._list = options.files_from
        self._options = options
        self._offline = offline
        self._frames = frames
        self._decoding = decoding
        self.selection = self._create_selection()
        """Decides what is taken from folders, globs and archives. It counts what is left out."""
        self._validate()

    @property
    def is_complete(self) -> bool:
        """Whether all names are available now. A list that is read from a pipe may still grow."""
        return self._list is None or Path(self._list).is_file()

    def open_sources(self) -> Iterator[Source]:
        """Returns the sources in order, lazily. Prints notices on stderr.

        Raises:
            UsageError: the list cannot be read.
        """
        found = self._expand_all(self.selection, console.print_message, _open_stdin())
        if self._frames is None:
            return found
        from imgclassify.images.frame_sources import expand_frames

        return expand_frames(found, self._frames, self._create_listing())

    def count_sources(self) -> int | None:
        """Returns the number of sources, or None if a pipe, a tar or all images had to be read to count them."""
        if not self.is_complete or self._frames is not None:
            return None
        count = 0
        for source in self.expand_quietly():
            if source.in_memory:
                return None
            count += 1
        return count

    def expand_quietly(self) -> Iterator[Source]:
        """Returns the sources once more. Prints nothing, counts nothing, and does not read stdin."""
        return self._expand_all(self._create_selection(), lambda _message: None, BytesIO())

    def _create_listing(self) -> ListFrames | None:
        """Returns what lists frames, if no decoder may run in this process."""
        if self._decoding is None or not self._decoding.isolate:
            return None
        from imgclassify.images.isolated_listing import IsolatedListing

        return IsolatedListing(max_pixels=self._decoding.max_pixels, time_limit=self._decoding.time_limit)

    def _create_selection(self) -> Selection:
        from imgclassify.sources import Selection

        return Selection(
            include=self._options.include or [],
            exclude=self._options.exclude or [],
            recursive=not self._options.no_recursive,
            hidden=self._options.hidden,
            any_name=self._options.any_name,
            videos=self._frames is not None and find_spec("av") is not None,
        )

    def _validate(self) -> None:
        if not self._names and self._list is None:
            raise UsageError(
                "no source was given", hint="give files, folders or URLs, - for stdin, or --files-from FILE"
            )
        if self._options.null and self._list is None:
            raise UsageError(
                "-0/--null needs --files-from", hint="add --files-from FILE, or --files-from - for stdin"
            )
        if self._names.count("-") > 1:
            raise UsageError("- is given twice, but stdin holds only one image", hint="give - once")
        if self._list == "-" and "-" in self._names:
            raise UsageError("stdin cannot be both an image and the list of files", hint="leave one of them out")

    def _expand_all(self, selection: Selection, notice: Callable[[str], None], stdin: BinaryIO) -> Iterator[Source]:
        from imgclassify.sources import expand, read_names

        expand_some = partial(expand, notice=notice, selection=selection, offline=self._offline)
        named = expand_some(self._names, stdin=stdin)
        if self._list is None:
            return named
        names = stdin if self._list == "-" else _open_list(self._list)
        # If the list is on stdin, a "-" in it cannot mean an image on stdin.
        image = BytesIO() if self._list == "-" else stdin
        return chain(named, expand_some(read_names(names, null=self._options.null), stdin=image, from_file=True))


def no_images_error(selection: Selection) -> NoImagesError:
    """Returns the error for sources without an image.

    Args:
        selection: what was left out of them.
    """
    from imgclassify.sources import RAW_SUFFIXES, VIDEO_SUFFIXES

    hints = []
    skipped = selection.skipped_extensions.keys()
    if raw := sorted(RAW_SUFFIXES & skipped):
        needed = "" if find_spec("rawpy") else ", after pip install rawpy (extra imgclassify[raw])"
        hints.append(f"add --any-name to develop camera RAW files, {', '.join(raw)}{needed}")
    if videos := sorted(VIDEO_SUFFIXES & skipped):
        needed = "" if find_spec("av") else ", after pip install av (extra imgclassify[video])"
        hints.append(f"`imgclassify predict --fps 1` classifies frames of videos, {', '.join(videos)}{needed}")
    if selection.skipped["hidden"] or selection.skipped["system_folder"]:
        hints.append("add --hidden to read hidden files and system folders")
    if selection.skipped["subfolder"]:
        hints.append("leave out --no-recursive to look into subfolders")
    if selection.skipped["not_an_image_name"] and not raw:
        hints.append("add --any-name to look into every file, whatever its name")
    hints.append("`imgclassify doctor` lists the file extensions that are looked for")
    return NoImagesError("no image was found", hint="; ".join(hints))


def _open_list(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the list {path!r}: {describe_error(error)}", hint="check --files-from"
        ) from error


def _open_stdin() -> BinaryIO:
    # stdin is None if the process was started with it closed (`<&-`).
    if sys.stdin is None:
        return BytesIO()
    try:
        # A separate reader, because the interpreter's own cannot be closed at exit while a thread waits on it.
        return io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    except (OSError, ValueError):
        return sys.stdin.buffer
