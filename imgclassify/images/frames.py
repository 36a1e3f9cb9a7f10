"""The frames or pages of an image file, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

from PIL import Image

from imgclassify.errors import ImageError, ImageNotFoundError, ImageTooLargeError, TruncatedImageError, UsageError

__all__ = ["FrameSelection", "select_frames"]

MAX_BLANK_FRAMES = 300
"""How many frames are decoded to find one that is not blank."""

_BLANK_RANGE = 8
"""Channels of a blank frame do not vary by more than this, of 255. A lossy codec leaves some noise."""


class FrameSelection(NamedTuple):
    """Which frames are taken of a file that has several."""

    key_frames: bool = False
    """Of a video, only the frames that are stored whole."""
    fps: float | None = None
    """Of a video, at most so many frames for each second."""


def select_frames(which: str, fps: float | None = None) -> FrameSelection:
    """Returns the frames that the options --frames and --fps select.

    Args:
        which: "all" or "key".

    Raises:
        UsageError: a value is out of its range, or the two exclude each other.
    """
    if which not in ("all", "key"):
        raise UsageError(f"frames is {which!r}", hint="use first, all or key", argument="frames")
    if fps is not None and which == "key":
        raise UsageError("fps is not for key frames", hint="leave out --frames key or --fps", argument="fps")
    if fps is not None and not 0 < fps < math.inf:
        raise UsageError(f"fps is {fps!r}", hint="give a finite number above 0", argument="fps")
    return FrameSelection(which == "key", fps)


class Frames(Protocol):
    """The frames of an opened file. Each has a key: its position from 0, or its time."""

    missing: ImageError | None
    """Why there may be more frames than can be found: the file is truncated or damaged. None if it is not."""

    @property
    def count(self) -> int | None:
        """How many can be found. None if the file does not say."""
        ...

    @property
    def first(self) -> int:
        """The key of the first frame, or of the one that the file says is the main one."""
        ...

    def position(self, key: int) -> int | None:
        """Returns the position of a frame, from 0. None if only its time is known."""
        ...

    def open(self, key: int) -> Image.Image:
        """Returns a frame, not upright. It is valid until the next one is opened."""
        ...

    def following(self, key: int) -> int | None:
        """Returns the key of the frame after the one that was opened last. None if there is none."""
        ...

    def names(self, selection: FrameSelection) -> Iterator[str]:
        """Yields the names of the frames that are selected, in order; see sources.Frame."""
        ...

    def find(self, name: str) -> int:
        """Returns the key of the frame of a name. Raises ImageNotFoundError if there is none."""
        ...


class NumberedFrames:
    """What frames have in common whose key is their position."""

    count: int
    missing: ImageError | None = None

    def position(self, key: int) -> int:
        return key

    def following(self, key: int) -> int | None:
        return key + 1 if key + 1 < self.count else None

    def names(self, selection: FrameSelection) -> Iterator[str]:
        return map(str, range(1, self.count + 1))

    def find(self, name: str) -> int:
        if not (name.isdecimal() and 1 <= int(name) <= self.count):
            frames = "1 frame" if self.count == 1 else f"{self.count} frames"
            raise ImageNotFoundError(f"no frame {name}: the file has {frames}")
        return int(name) - 1


class PillowFrames(NumberedFrames):
    """The frames of a file that one of Pillow's classes, or a class with the same methods, has opened."""

    def __init__(self, image: Image.Image, stream: BinaryIO) -> None:
        """
        Args:
            stream: the file of the image. Its position is kept.
        """
        self._image = image
        self.first: int = image.tell()  # a HEIC's main image need not be its first
        self.missing = getattr(image, "missing", None)
        self.count = max(1, self._count_gif(stream) if image.format == "GIF" else getattr(image, "n_frames", 1))

    def open(self, key: int) -> Image.Image:
        if key != self._image.tell():
            self._image.seek(key)
        return self._image

    def _count_gif(self, stream: BinaryIO) -> int:
        """Counts the images as far as they go. Pillow gives no number if one of them is damaged."""
        from imgclassify.images.gif_blocks import count_images

        count, is_whole = count_images(stream)
        if not is_whole:
            self.missing = TruncatedImageError("damaged GIF file: it ends too early, and frames may be missing")
        return count


def is_blank(image: Image.Image, *, tolerance: int = _BLANK_RANGE) -> bool:
    """Whether no channel of an RGB image varies by more than a number of levels, of 255."""
    extrema: tuple[tuple[int, int], ...] = image.getextrema()  # type: ignore[assignment]
    return all(high - low <= tolerance for low, high in extrema)


def check_pixels(size: tuple[int, int], max_pixels: int, what: str = "") -> None:
    """Raises ImageTooLargeError if width × height is above a limit.

    Args:
        what: words for the message, such as "a tile of ".
    """
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{what}{width} × {height} is {width * height} pixels, and the limit is {max_pixels}"
        )
