"""Replaces a file of several frames by a source for each of its frames, SOURCE#N."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import count, islice
from typing import BinaryIO, NoReturn, TypeAlias

from PIL import Image

from imgclassify.errors import CorruptImageError, ImageError, ImageNotFoundError, TruncatedImageError
from imgclassify.images.frames import FrameSelection
from imgclassify.images.opened_image import FAILURES, OpenedImage, repairs, use_image
from imgclassify.sources import Frame, Source

__all__ = ["expand_frames", "list_names"]

_MOST_KEPT = 8
"""How many decoded frames are kept for other threads."""
_MOST_ISSUED = 2**13
"""How many names of frames that are not read yet are remembered. A run looks ahead at 4,096."""

ListFrames: TypeAlias = Callable[[Source, FrameSelection], Iterator[str]]
"""Yields the names of the frames that are selected, and one name or none if the file has only one frame. Raises
ImageError if the file cannot be opened, or at the end if frames may be missing."""


def expand_frames(
    sources: Iterable[Source], selection: FrameSelection, list_frames: ListFrames | None = None
) -> Iterator[Source]:
    """Replaces each file of several frames by a source for each frame that is selected.

    Other sources are passed on. So are files that cannot be opened: their error is raised when they are decoded.

    Args:
        list_frames: the default is `list_frames` of this module.
    """
    for source in sources:
        if source.frame is not None:
            yield source
            continue
        source = source if source.path is not None else _read_once(source)
        yield from _expand(source, (list_frames or list_names)(source, selection))


def _expand(source: Source, names: Iterator[str]) -> Iterator[Source]:
    found: list[str] = []
    error: ImageError | None = None
    try:
        found.extend(islice(names, 2))
    except ImageError as reason:  # the names before it are kept
        error = copy(reason)  # without its traceback, which refers to the opened file
    if not found or (error is None and found == ["1"]):
        yield source
    else:
        yield from _each_frame(source, found, names if error is None else error)


def _raise(error: ImageError) -> NoReturn:
    raise error


def list_names(source: Source, selection: FrameSelection) -> Iterator[str]:
    """Yields the names of the frames of a source that are selected: "1", "2" and so on, or seconds in a video.

    Raises:
        ImageError: the source cannot be opened; or, at the end, frames may be missing.
    """
    with source.open() as stream:
        yield from use_image(stream, None, False, lambda opened: opened).names(selection)


class FrameReader:
    """Reads the frames of one file. All sources of its frames share it, so that the file is decoded once.

    Any thread may use it at any time.
    """

    _numbers = count()

    def __init__(self, source: Source) -> None:
        self.number = next(self._numbers)
        """Differs from that of every other reader of this process."""
        self._source = source
        self._lock = threading.Lock()
        self._opened: OpenedImage | None = None
        self._is_repaired = False
        self._stream: BinaryIO | None = None
        self._issued: deque[str] = deque(maxlen=_MOST_ISSUED)
        self._kept: dict[str, Image.Image | ImageError] = {}

    def expect(self, name: str) -> None:
        """Says that a frame may be read later, after those that were expected before."""
        self._issued.append(name)

    def read(self, name: str, max_pixels: int) -> Image.Image:
        """Decodes a frame, as `decoding.load_image` does.

        Raises:
            ImageError: the frame cannot be decoded, or there is none of this name.
        """
        with self._lock:
            if name not in self._kept:
                self._decode_skipped(name, max_pixels)
                return self._decode(name, max_pixels)
            found = self._kept.pop(name)
        if isinstance(found, ImageError):
            raise found
        return found

    def _decode_skipped(self, name: str, max_pixels: int) -> None:
        """Decodes the frames just before this one, which another thread is about to read.

        Most formats can be decoded only from the start, so going back would take long.
        """
        if name not in self._issued:
            return
        skipped: deque[str] = deque(maxlen=_MOST_KEPT)
        while (issued := self._issued.popleft()) != name:
            skipped.append(issued)
        for each in skipped:
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            try:
                self._kept[each] = self._decode(each, max_pixels)
            except ImageError as error:
                self._kept[each] = error

    def _decode(self, name: str, max_pixels: int) -> Image.Image:
        if self._stream is None:
            self._stream = self._source.open()
        try:
            if self._opened is None:
                self._opened = OpenedImage(self._stream, max_pixels)
            return self._opened.decode(self._opened.find(name))
        except (CorruptImageError, TruncatedImageError):
            # What is damaged may be beside the pixels. This is tried for one frame only.
            if self._is_repaired:
                raise
            self._is_repaired = True
            for open_repaired in repairs(self._stream, max_pixels, decode_damaged=False):
                with suppress(*FAILURES, ImageNotFoundError):
                    opened = open_repaired()
                    if self._opened is not None and opened.frames.count != self._opened.frames.count:
                        continue  # a frame is missing, so the numbers may mean others
                    image = opened.decode(opened.find(name))
                    self._opened = opened
                    return image
            raise


def _each_frame(source: Source, first: list[str], more: Iterator[str] | ImageError) -> Iterator[Source]:
    """Yields a source for each frame, and one for the error that ends them, if one does."""
    reader = FrameReader(source)

    def frame(name: str) -> Source:
        reader.expect(name)
        return replace(source, name=f"{source.name}#{name}", frame=Frame(name, reader))

    yield from map(frame, first)
    try:
        if isinstance(more, ImageError):
            raise more
        yield from map(frame, more)
    except ImageError as error:
        yield Source(source.name, partial(_raise, copy(error)))


def _read_once(source: Source) -> Source:
    """Reads a source that may be readable only once, or slowly, into memory."""
    try:
        with source.open() as stream:
            content = stream.read()
    except ImageError as error:
        return Source(source.name, partial(_raise, error))
    return Source(source.name, partial(BytesIO, content), in_memory=True)
