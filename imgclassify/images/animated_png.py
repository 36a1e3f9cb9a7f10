"""Composes the frames of an animated PNG as its specification says.

Pillow lays half-transparent pixels over others wrongly, and does not restore an area under a transparent one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import Image

from imgclassify.errors import CorruptImageError, ImageError, TruncatedImageError
from imgclassify.images.frames import NumberedFrames, check_pixels
from imgclassify.images.png import AFTER_PIXELS, PngFile, check_data
from imgclassify.images.png_chunks import Chunk, has_checksum, iter_chunks, make_chunk, read_data
from imgclassify.images.splicing import Part, splice

_SIGNATURE_BYTES = 8
_IMAGE_END = make_chunk(b"IEND", b"")
_KEEP, _CLEAR, _RESTORE = range(3)
"""What becomes of the area of a frame before the next one is shown (dispose_op)."""
_SOURCE, _OVER = range(2)
"""Whether a frame replaces its area, or is laid over it (blend_op)."""
_CONTROL = struct.Struct(">IIIIIHHBB")


class _Frame(NamedTuple):
    """A frame of an animation (Portable Network Graphics, third edition, 11.3.6)."""

    width: int
    height: int
    x: int
    y: int
    disposal: int
    blending: int
    chunks: list[Chunk]
    """Of image data: IDAT or fdAT."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.x, self.y, self.x + self.width, self.y + self.height


class AnimatedPng(NumberedFrames):
    """The frames of an animation; see frames.Frames. An image outside the animation is not one of them.

    Each frame is decoded as a PNG of its own, and laid on a canvas as the specification says.
    """

    first = 0

    def __init__(self, stream: BinaryIO, max_pixels: int) -> None:
        """
        Args:
            stream: seekable. It must stay open.
            max_pixels: limit on width × height.
        """
        self._stream, self._max_pixels = stream, max_pixels
        self._frames: list[_Frame] = []
        self._head: list[Part] = []
        self._tail: list[Part] = []
        self._still: list[Chunk] = []
        self._size = (0, 0)
        self._form = b""
        """What the header says besides the size."""
        self._has_alpha = False
        self._stated = 0
        try:
            self.missing = self._find_missing(is_whole=self._follow())
        except ValueError as error:
            self.missing = CorruptImageError(f"damaged PNG file: {error}")
        self.count = len(self._frames)
        self._canvas: Image.Image | None = None
        self._next = 0
        """The frame that is laid on the canvas next."""

    def _find_missing(self, *, is_whole: bool) -> ImageError | None:
        if len(self._frames) == self._stated:
            return None
        if not is_whole:
            return TruncatedImageError("damaged PNG file: it ends too early, and frames are missing")
        return CorruptImageError(f"damaged PNG file: {len(self._frames)} of its {self._stated} frames are there")

    def _follow(self) -> bool:
        """Finds the frames. Raises ValueError at a frame that is damaged.

        Returns:
            Whether the file has its end.
        """
        is_whole = False
        numbers = iter(range(2**31))
        for chunk in iter_chunks(self._stream):
            kind = chunk.kind
            if kind == b"IEND":
                is_whole = True
            elif kind == b"acTL":
                (self._stated,) = struct.unpack(">I", read_data(self._stream, chunk)[:4])
            elif kind == b"fcTL":
                if len(self._frames) == self._stated:  # those beyond are not shown
                    break
                self._frames.append(self._read_control(chunk, next(numbers)))
            elif kind == b"fdAT":
                self._take_data(chunk, next(numbers))
            elif kind == b"IDAT":
                self._still.append(chunk)
                if self._frames:
                    self._frames[0].chunks.append(chunk)
            elif not self._still:
                self._read_header(chunk)
            elif kind in AFTER_PIXELS:
                self._tail.append(chunk.part)
        if self._frames and not self._frames[-1].chunks:  # cut before its data
            self._frames.pop()
        return is_whole

    def _read_header(self, chunk: Chunk) -> None:
        if chunk.kind == b"IHDR":
            data = read_data(self._stream, chunk)
            width, height, _, color = struct.unpack(">IIBB", data[:10])
            self._size, self._form, self._has_alpha = (width, height), data[8:], color in (4, 6)
        else:
            self._head.append(chunk.part)
            self._has_alpha |= chunk.kind == b"tRNS"

    def _read_control(self, chunk: Chunk, number: int) -> _Frame:
        data = read_data(self._stream, chunk)
        what = f"the control of frame {len(self._frames) + 1}"
        if len(data) != _CONTROL.size or not has_checksum(self._stream, chunk):
            raise ValueError(f"{what} is damaged")
        found, width, height, x, y, _, _, disposal, blending = _CONTROL.unpack(data)
        if found != number or (self._frames and not self._frames[-1].chunks):
            raise ValueError(f"{what} is out of sequence")
        frame = _Frame(width, height, x, y, disposal, blending, [])
        if not (0 < width <= self._size[0] - x and 0 < height <= self._size[1] - y):
            raise ValueError(f"{what} gives an area outside the image")
        if disposal > _RESTORE or blending > _OVER:
            raise ValueError(f"{what} is damaged")
        return frame

    def _take_data(self, chunk: Chunk, number: int) -> None:
        found = read_data(self._stream, chunk, 4)
        if not self._frames or found != struct.pack(">I", number):
            raise ValueError(f"the data of frame {len(self._frames)} is out of sequence")
        self._frames[-1].chunks.append(chunk)

    def open_still(self) -> PngFile:
        """Opens the image that is shown where animations are not."""
        return self._open_png(self._size, [chunk.part for chunk in self._still])

    def _open_png(self, size: tuple[int, int], data: list[Part]) -> PngFile:
        parts: list[Part] = [
            (0, _SIGNATURE_BYTES),
            make_chunk(b"IHDR", struct.pack(">II", *size) + self._form),
            *self._head,
            *data,
            *self._tail,
            _IMAGE_END,
        ]
        return PngFile(splice(self._stream, parts))

    def _open_frame(self, key: int) -> PngFile:
        frame = self._frames[key]
        return self._open_png((frame.width, frame.height), list(self._image_data(frame)))

    def _image_data(self, frame: _Frame) -> Iterator[Part]:
        for chunk in frame.chunks:
            if chunk.kind == b"IDAT":
                yield chunk.part
            else:
                check_data(self._stream, chunk)
                yield make_chunk(b"IDAT", read_data(self._stream, chunk)[4:])

    def open(self, key: int) -> Image.Image:
        """Composes a frame.

        Returns:
            A file that is not decoded yet, or an image in mode RGBA with the `info` of the file.

        Raises:
            ImageTooLargeError: the image has too many pixels.
            Exception: the frame, or one that it is laid over, is damaged.
        """
        if self._replaces_all(key):
            return self._open_frame(key)
        check_pixels(self._size, self._max_pixels)
        reached = self._next if self._next <= key else 0
        start = next((each for each in range(key, reached, -1) if self._replaces_all(each)), reached)
        if self._canvas is None or start != self._next:
            self._canvas, self._next = Image.new("RGBA", self._size), start
        while self._next < key:
            self._lay(self._canvas, self._next)
            self._next += 1
        shown = self._lay(self._canvas, key)
        self._next += 1
        return shown

    def _lay(self, canvas: Image.Image, key: int) -> Image.Image:
        """Lays a frame on the canvas, and disposes of it as it says. Returns what is seen in between."""
        frame, image = self._frames[key], self._open_frame(key)
        image.load()
        before = canvas.crop(frame.box) if frame.disposal == _RESTORE else (0, 0, 0, 0)
        if frame.blending == _OVER:
            canvas.alpha_composite(_to_rgba(image), (frame.x, frame.y))
        else:
            canvas.paste(_to_rgba(image), (frame.x, frame.y))
        shown = canvas.copy()
        shown.format = image.format
        shown.info = {name: value for name, value in image.info.items() if name != "transparency"}
        if frame.disposal != _KEEP:
            canvas.paste(before, frame.box)
        return shown

    def _replaces_all(self, key: int) -> bool:
        """Whether nothing of the frames before is seen in a frame."""
        frame = self._frames[key]
        is_opaque = frame.blending == _SOURCE or not self._has_alpha
        return frame.box == (0, 0, *self._size) and (key == 0 or is_opaque)


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode != "I;16":
        return image.convert("RGBA")
    import numpy as np

    values = np.asarray(image)
    rgba = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGBA")
    if isinstance(transparent := image.info.get("transparency"), int):
        rgba.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return rgba
