"""Opens a PNG, with Pillow, and checks what Pillow does not.

Pillow does not verify the checksum of image data, and lets chunks after the pixels change how they are shown.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from imgclassify.images.png_chunks import Chunk, has_checksum, iter_chunks

if TYPE_CHECKING:
    from imgclassify.images.animated_png import AnimatedPng

AFTER_PIXELS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
"""The chunks that may hold the orientation. Others must come before the pixels (ISO/IEC 15948, 5.6)."""


def open_png(stream: BinaryIO, max_pixels: int) -> PngFile | AnimatedPng:
    """Opens a PNG, as an animation if it is one.

    Args:
        stream: seekable and at its start.
        max_pixels: limit on width × height, for frames that are composed.

    Raises:
        Exception: the file is damaged.
    """
    image = PngFile(stream)
    if image.png is None or image.png.im_n_frames is None:
        return image
    from imgclassify.images.animated_png import AnimatedPng

    animation = AnimatedPng(stream, max_pixels)
    return animation if animation.count else animation.open_still()


class PngFile(PngImageFile):
    """The image of a PNG that is not animated. Its `load` raises if the checksum of image data is wrong."""

    def load_end(self) -> None:
        stream, reader = self.fp, self.png
        assert stream is not None
        assert reader is not None
        reader.call = partial(_call_after_pixels, reader)  # type: ignore[method-assign]
        try:
            super().load_end()
        finally:
            del reader.call  # it refers to the reader, which would stay until garbage is collected
        for chunk in iter_chunks(stream):  # type: ignore[arg-type]
            if chunk.kind == b"IDAT":
                check_data(stream, chunk)  # type: ignore[arg-type]


def _call_after_pixels(reader: Any, kind: bytes, position: int, length: int) -> bytes:
    """Lets Pillow read a chunk after the pixels if it may hold the orientation and its checksum is right."""
    chunk = Chunk(kind, position - 8, length, (position - 8, 12 + length))
    is_read = kind in AFTER_PIXELS and has_checksum(reader.fp, chunk, if_cut=False)
    reader.fp.seek(position)
    data: bytes = (
        getattr(reader, f"chunk_{kind.decode()}")(position, length)
        if is_read
        else ImageFile._safe_read(reader.fp, length)
    )
    return data


def check_data(stream: BinaryIO, chunk: Chunk) -> None:
    """Raises ValueError if the checksum of a chunk of image data is wrong. If it is cut, the decoder notices."""
    if not has_checksum(stream, chunk):
        raise ValueError("the checksum of its image data is wrong")
