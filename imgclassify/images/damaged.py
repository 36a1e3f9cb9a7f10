"""Makes files of damaged ones that decoders accept, for what there is of their pixels.

What is missing becomes grey. Nothing here changes Pillow's globals, which other threads see.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

from PIL import Image, ImageFile

from imgclassify.images.notes import make_riff, read_chunks, read_riff
from imgclassify.images.png_chunks import Chunk, has_checksum, make_chunk, read_data
from imgclassify.images.splicing import Part, splice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GREY = (128, 128, 128)
"""The colour of what is missing: that of libjpeg, for blocks without data."""

_BLOCK_BYTES = 2**16


_ToRgb: TypeAlias = Callable[[Image.Image], Image.Image]


class Repaired(NamedTuple):
    """A file that the decoder of its format accepts."""

    stream: BinaryIO
    fill: Callable[[Image.Image, _ToRgb], Image.Image] = lambda image, to_rgb: image
    """Takes the image as Pillow has opened it, and a function that converts one to RGB. Returns the image with grey
    in place of what is missing, not upright. Raises NothingLeftError."""


class NothingLeftError(Exception):
    """No pixel of the image can be decoded."""


def find_repairs(stream: BinaryIO, format_name: str, max_pixels: int) -> Iterator[Repaired]:
    """Yields files that may be decoded in place of a damaged one, the most complete first.

    Args:
        stream: seekable. It must stay open.
        format_name: one of `decoders.IMAGE_FORMATS`. There are none for most of them.
        max_pixels: limit on width × height.
    """
    with suppress(Exception):  # of a file too damaged; its first error is the one to report
        if find := _FINDERS.get(format_name):
            yield from find(stream, stream.seek(0, io.SEEK_END), max_pixels)


def _with_info_of(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Returns the RGB image with the orientation of the other one, which has lost its transparency."""
    rgb.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return rgb


# JPEG -------------------------------------------------------------------------------------------------------

_END_OF_JPEG = b"\xff\xd9"
_SEGMENT = re.compile(rb"\xff(?=[\x01-\xcf\xd8-\xfe])")
"""The beginning of a segment within image data, in which FF is followed by 0 or a restart marker."""
_LAST_SEGMENTS = 3


def _repair_jpeg(stream: BinaryIO, size: int, _max_pixels: int) -> Iterator[Repaired]:
    """Ends the file where it ends, or before one of its last segments, or before the first one.

    libjpeg makes blocks without data grey, and smooths the scans of a progressive JPEG that are there.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    stream.seek(0)
    JpegImageFile(stream)  # up to the end of the first scan's header
    start = stream.tell()
    segments = _find_segments(stream, start)
    first = next(segments, None)
    last = deque(segments, _LAST_SEGMENTS)
    for end in dict.fromkeys((size, *reversed(last), *([] if first is None else [first]))):
        if end > start:
            yield Repaired(splice(stream, [(0, end), _END_OF_JPEG]))


def _find_segments(stream: BinaryIO, start: int) -> Iterator[int]:
    """Yields the positions of the segments in and after image data."""
    before = b""
    stream.seek(start)
    while block := stream.read(_BLOCK_BYTES):
        data = before + block
        place = stream.tell()
        for match in _SEGMENT.finditer(data):
            yield place - len(data) + match.start()
            stream.seek(place)
        before = data[-1:] if data.endswith(b"\xff") else b""


# PNG --------------------------------------------------------------------------------------------------------

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""How many channels each colour type has."""

_Passes: TypeAlias = tuple[tuple[int, int, int, int, int, int], ...]
_WHOLE = ((0, 0, 1, 1, 1, 1),)
_ADAM7 = (
    (0, 0, 8, 8, 8, 8),
    (4, 0, 8, 8, 4, 8),
    (0, 4, 4, 8, 4, 4),
    (2, 0, 4, 4, 2, 4),
    (0, 2, 2, 4, 2, 2),
    (1, 0, 2, 2, 1, 2),
    (0, 1, 1, 2, 1, 1),
)
_GIF_PASSES = ((0, 0, 1, 8, 1, 8), (0, 4, 1, 8, 1, 4), (0, 2, 1, 4, 1, 2), (0, 1, 1, 2, 1, 1))
"""The passes of an image that is not interlaced, of an interlaced PNG (ISO/IEC 15948, 8.2) and of an interlaced GIF
(GIF89a, appendix E): x and y of the first pixel, the distance of pixels in x and in y, and the width and height of
the block that a pixel stands for until a later pass."""

_LEFT_OUT = (b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IEND")


class _Pass(NamedTuple):
    rows: int
    row_bytes: int
    """With the byte that names the filter."""


def _repair_png(stream: BinaryIO, size: int, max_pixels: int) -> Iterator[Repaired]:
    """Packs the rows that there are anew, and rows of the first pixel's value in place of the others.

    So white and black of deep samples are found as in a whole file.
    """
    chunks, _ = read_chunks(stream, size)
    header = read_data(stream, chunks[0], 13)
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if chunks[0].kind != b"IHDR" or not 0 < width * height <= max_pixels:
        return
    bits = depth * _CHANNELS[color]
    passes = _ADAM7 if interlace else _WHOLE
    layout = [
        _Pass(rows if columns else 0, 1 + (columns * bits + 7) // 8)
        for x, y, step_x, step_y, *_ in passes
        for columns, rows in [(-(-(width - x) // step_x), -(-(height - y) // step_y))]
    ]
    packed, done = _pack_rows(
        _read_rows(_unpack(_image_data(stream, size, chunks)), layout), layout, max(1, bits // 8)
    )
    if not done:
        return
    places = [index for index, chunk in enumerate(chunks) if chunk.kind == b"IDAT"]
    before, after = (
        [chunk.part for chunk in some if chunk.kind not in _LEFT_OUT and _is_sound(stream, chunk)]
        for some in (chunks[: places[0]], chunks[places[-1] :])
    )
    yield Repaired(
        splice(stream, [(0, 8), *before, *packed, *after, make_chunk(b"IEND", b"")]),
        partial(_fill_rows, passes, layout, done),
    )


def _is_sound(stream: BinaryIO, chunk: Chunk) -> bool:
    return chunk.kind != b"tRNS" or has_checksum(stream, chunk, if_cut=False)


def _image_data(stream: BinaryIO, size: int, chunks: list[Chunk]) -> Iterator[bytes]:
    """Yields the image data, up to the first chunk with a wrong checksum, but at least that of one chunk."""
    first = True
    for chunk in chunks:
        if chunk.kind == b"IDAT":
            if not first and not has_checksum(stream, chunk):
                return
            first = False
            position, end = chunk.position + 8, min(chunk.position + 8 + chunk.length, size)
            while position < end:
                stream.seek(position)
                block = stream.read(min(_BLOCK_BYTES, end - position))
                position += len(block) or size
                yield block


def _unpack(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yields what zlib can unpack, up to the first error."""
    unpacker = zlib.decompressobj()
    for block in blocks:
        before = unpacker.copy()
        try:
            while block and not unpacker.eof:
                yield unpacker.decompress(block, _BLOCK_BYTES)
                block, before = unpacker.unconsumed_tail, unpacker.copy()
        except zlib.error:
            # An error loses all that is unpacked in one call.
            with suppress(zlib.error):
                for index in range(len(block)):
                    yield before.decompress(block[index : index + 1])
            return


def _read_rows(blocks: Iterator[bytes], layout: list[_Pass]) -> Iterator[bytes]:
    """Yields one or more whole rows of one pass at a time, as long as their filters are valid."""
    held = bytearray()
    for rows, row_bytes in layout:
        missing = rows
        while missing:
            count = min(len(held) // row_bytes, missing)
            if not count:
                block = next(blocks, None)
                if block is None:
                    return
                held += block
                continue
            found = bytes(held[: count * row_bytes])
            del held[: count * row_bytes]
            valid = next((index for index in range(count) if found[index * row_bytes] > 4), count)
            if valid:
                yield found[: valid * row_bytes]
            if valid < count:
                return
            missing -= count


def _pack_rows(found: Iterator[bytes], layout: list[_Pass], pixel_bytes: int) -> tuple[list[bytes], int]:
    """Returns (chunks of image data, how many rows of all passes there were)."""
    packer = zlib.compressobj(1)
    chunks: list[bytes] = []
    pixel = b""
    left = [rows for rows, _ in layout]
    index = 0

    def add(data: bytes) -> None:
        if packed := packer.compress(data):
            chunks.append(make_chunk(b"IDAT", packed))

    for rows in found:
        while not left[index]:
            index += 1
        pixel = pixel or rows[1 : 1 + pixel_bytes]
        left[index] -= len(rows) // layout[index].row_bytes
        add(rows)
    done = sum(rows for rows, _ in layout) - sum(left)
    for count, (_, row_bytes) in zip(left, layout, strict=True):
        # Filter 1 repeats the pixel to the left.
        row = b"\1" + pixel.ljust(row_bytes - 1, b"\0")
        for _ in range(count if done else 0):
            add(row)
    chunks.append(make_chunk(b"IDAT", packer.flush()))
    return chunks, done


def _fill_rows(passes: _Passes, layout: list[_Pass], done: int, image: Image.Image, to_rgb: _ToRgb) -> Image.Image:
    import numpy as np

    image.load()
    known = np.zeros(image.size[::-1], np.bool_)
    for (x, y, step_x, step_y, *_), (rows, _) in zip(passes, layout, strict=True):
        known[y : y + min(rows, done) * step_y : step_y, x::step_x] = True
        done -= min(rows, done)
    return _with_info_of(image, _fill(to_rgb(image), known, passes))


def _fill(rgb: Image.Image, known: NDArray[np.bool_], passes: _Passes) -> Image.Image:
    """Fills pixels that are not known with those of earlier passes, and with grey where there are none."""
    import numpy as np

    if passes is _WHOLE:
        rgb.paste(GREY, mask=Image.fromarray(~known))
        return rgb
    pixels = np.asarray(rgb)
    filled = np.full_like(pixels, GREY[0])
    for x, y, step_x, step_y, block_width, block_height in passes:
        for down in range(block_height):
            for right in range(block_width):
                target = np.s_[y + down :: step_y, x + right :: step_x]
                shape = filled[target].shape[:2]
                source = np.s_[y::step_y, x::step_x]
                there = known[source][: shape[0], : shape[1]]
                np.copyto(filled[target], pixels[source][: shape[0], : shape[1]], where=there[:, :, None])
    return Image.fromarray(filled)


# GIF --------------------------------------------------------------------------------------------------------


def _repair_gif(stream: BinaryIO, _size: int, _max_pixels: int) -> Iterator[Repaired]:
    yield Repaired(stream, partial(_fill_gif, stream))


def _fill_gif(stream: BinaryIO, image: Any, to_rgb: _ToRgb) -> Image.Image:
    """Decodes the image twice, upon two colours. The pixels that differ are missing."""
    import numpy as np
    from PIL.GifImagePlugin import GifImageFile

    (_, extents, _, (_, interlaced, _)) = image.tile[0]
    left, top, right, bottom = extents
    stream.seek(0)
    image = _decode_upon(image, extents, 0)
    stream.seek(0)
    other = _decode_upon(GifImageFile(stream), extents, 255)
    known = (np.asarray(image) == np.asarray(other))[top:bottom, left:right]
    if not known.any():
        raise NothingLeftError
    rgb = to_rgb(image)
    frame = _fill(rgb.crop(extents), known, _GIF_PASSES if interlaced else _WHOLE)
    rgb.paste(frame, (left, top))
    return _with_info_of(image, rgb)


def _decode_upon(image: ImageFile.ImageFile, extents: tuple[int, int, int, int], value: int) -> Image.Image:
    """Decodes as much as there is, upon a value that fills the extents before."""
    prepare = image.load_prepare

    def prepare_and_fill() -> None:
        prepare()
        image.im.paste(value, extents)

    image.load_prepare = prepare_and_fill  # type: ignore[method-assign]
    with suppress(OSError, EOFError, ValueError):
        image.load()
    image.tile = []
    return image


# WebP -------------------------------------------------------------------------------------------------------

_PADDINGS = (b"\0", b"\x55\xaa\x33\x0f\xcc\x69", b"\x96\x5a", b"\xff")
"""What is repeated in place of missing data. More zeros follow, of which a decoder needs few."""
_MOST_PADDING = 2**24
_MORE_BYTES = 2**22
"""How many bytes are padded, whatever length a file says, and how many zeros follow."""
_FRAME_HEADER_BYTES = 16


def _repair_webp(stream: BinaryIO, size: int, _max_pixels: int) -> Iterator[Repaired]:
    """Completes the image data in two ways. The rows from the first one on that differs are missing.

    Some ways do not give an image, because the data is not valid.
    """
    chunks = read_riff(stream, 12, size)
    streams = [splice(stream, make_riff(_pad_chunks(stream, chunks, size, padding))) for padding in _PADDINGS]
    for index, first in enumerate(streams):
        for second in streams[index + 1 :]:
            yield Repaired(first, partial(_fill_webp, second))


def _pad_chunks(
    stream: BinaryIO, chunks: list[tuple[bytes, int, int]], size: int, padding: bytes
) -> list[tuple[bytes, Part]]:
    """Returns the chunks that are whole, and image data that is cut, padded. Later frames are left out."""
    kept: list[tuple[bytes, Part]] = [
        (kind, (position, length)) for kind, position, length in chunks if position + length <= size
    ]
    kind, position, length = chunks[-1]
    if position + length <= size or not stream.seek(position) < size:
        return kept
    if kind in (b"EXIF", b"XMP "):
        kept.append((kind, (position, size - position)))
    elif kind in (b"VP8 ", b"VP8L"):
        start = stream.read()
        missing = min(length - len(start), _MOST_PADDING)
        start += (padding * (missing // len(padding) + 1))[:missing]
        kept.append((kind, start + bytes(_MORE_BYTES)))
    elif kind == b"ANMF" and not any(earlier == b"ANMF" for earlier, _ in kept):
        header = stream.read(_FRAME_HEADER_BYTES)
        inner = read_riff(stream, position + _FRAME_HEADER_BYTES, size)
        parts = make_riff(_pad_chunks(stream, inner, size, padding))[1:]
        kept.append((kind, header + splice(stream, parts).read()))
    return kept


def _fill_webp(second: BinaryIO, image: Image.Image, to_rgb: _ToRgb) -> Image.Image:
    import numpy as np
    from PIL.WebPImagePlugin import WebPImageFile

    second.seek(0)
    other = WebPImageFile(second)
    differs = (np.asarray(image) != np.asarray(other)).any(axis=(1, 2))
    known = int(differs.argmax()) if differs.any() else image.height
    if not known:
        raise NothingLeftError
    rgb = to_rgb(image)
    rgb.paste(GREY, (0, known, *rgb.size))
    return _with_info_of(image, rgb)


_FINDERS: dict[str, Callable[[BinaryIO, int, int], Iterator[Repaired]]] = {
    "JPEG": _repair_jpeg,
    "PNG": _repair_png,
    "GIF": _repair_gif,
    "WEBP": _repair_webp,
}
