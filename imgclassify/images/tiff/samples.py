"""Reads the samples of a TIFF's page as an array.

Strips and tiles are unpacked by libtiff, which sees each as rows of grey bytes. NumPy makes samples of them. So no
strip can become larger than the page says.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from PIL import TiffImagePlugin

from imgclassify.errors import TruncatedImageError, UnsupportedImageError
from imgclassify.images.tiff.directories import HEIGHT, STRIP_OFFSETS, WIDTH, Directory
from imgclassify.images.tiff.layout import (
    ARRAY_CODECS,
    BITS,
    BLACK_IS_ZERO,
    BYTE_CODECS,
    COMPRESSION,
    FILL_ORDER,
    FLOAT,
    IMAGE_CODECS,
    INT,
    JPEG,
    JPEG_TABLES,
    LERC,
    LERC_PARAMETERS,
    NONE,
    PHOTOMETRIC,
    SAMPLES,
    SEPARATED,
    STRIP_BYTES,
    STRIP_ROWS,
    TILE_BYTES,
    TILE_OFFSETS,
    UINT,
    Layout,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GROUP_BYTES = 2**25
_PACKED_BYTES = 2**24
_GROUP_BLOCKS = 2**12
"""The unpacked size, the packed size and the number of the strips that are unpacked together."""
_HEADER_BYTES = 2**12
_ROW_VALUES = 2**20
"""How many values are made from bytes at once. Unpacking bits takes eight times their size."""
_MOST_PILLOW_PIXELS = 178_000_000
"""Pillow refuses larger images, and strips that are shown to it as images."""


class _Block(NamedTuple):
    """A strip or tile."""

    top: int
    left: int
    rows: int
    """Rows that are stored: of a tile, all."""
    data: bytes


def read_samples(stream: BinaryIO, page: Directory, layout: Layout) -> NDArray[Any]:
    """Returns the samples of the channels that are used, (height, width, channels)."""
    import numpy as np

    channels = layout.channels()
    # Samples of 64 bits are kept as floats of 32, to take less memory.
    kind = np.float32 if layout.bits == 64 else _sample_type(layout).newbyteorder("=")
    samples = np.empty((layout.height, layout.width, len(channels)), kind)
    for at, channel in enumerate(channels) if layout.planar else [(slice(None), 0)]:
        picked = slice(None) if layout.planar else channels
        for group in _groups(_read_blocks(stream, page, layout, channel), layout):
            unpacked = _unpack(group, layout, page)
            start = 0
            for block in group:
                for rows, values in _block_values(unpacked[start : start + block.rows], unpacked_layout(layout)):
                    seen = values[: layout.height - block.top - rows, : layout.width - block.left]
                    place = (
                        slice(block.top + rows, block.top + rows + len(seen)),
                        slice(block.left, block.left + seen.shape[1]),
                    )
                    samples[(*place, at)] = seen[:, :, 0] if layout.planar else seen[:, :, picked]
                start += block.rows
    return samples


def unpacked_layout(layout: Layout) -> Layout:
    """Returns the layout of a page's samples after unpacking: those from imagecodecs take whole bytes each."""
    if layout.compression not in ARRAY_CODECS:
        return layout
    return layout._replace(bits=8 * _sample_type(layout).itemsize)


def _read_blocks(stream: BinaryIO, page: Directory, layout: Layout, plane: int) -> Iterator[_Block]:
    """Yields the strips or tiles of a plane, compressed as they are in the file.

    Raises:
        TruncatedImageError: one is beyond the end of the file.
        ValueError: the page does not name all of them.
    """
    across = -(-layout.width // layout.block_width)
    count = across * -(-layout.height // layout.block_height)
    first = plane * count
    tags = (TILE_OFFSETS, TILE_BYTES) if layout.tiled else (STRIP_OFFSETS, STRIP_BYTES)
    offsets, lengths = (page.array(tag, first + count)[first:] for tag in tags)
    if len(offsets) < count:
        raise ValueError(f"it names {len(offsets)} of {count} strips or tiles")
    size = stream.seek(0, io.SEEK_END)
    for index in range(count):
        top = index // across * layout.block_height
        rows = layout.block_height if layout.tiled else min(layout.block_height, layout.height - top)
        offset, unpacked = int(offsets[index]), rows * layout.row_bytes
        length = int(lengths[index]) if index < len(lengths) else unpacked
        # No compression makes data much larger. A file may state any length, for a million strips.
        most = unpacked if layout.compression == NONE else 2 * unpacked + 2**16
        length = unpacked if layout.compression == NONE else max(0, min(length, most))
        if not 0 <= offset <= size - min(length, most):
            raise TruncatedImageError("damaged TIFF file: it ends too early")
        stream.seek(offset)
        yield _Block(top, index % across * layout.block_width, rows, stream.read(length))


def _groups(blocks: Iterator[_Block], layout: Layout) -> Iterator[list[_Block]]:
    """Collects blocks that are unpacked together, because each call of libtiff takes a while."""
    group: list[_Block] = []
    rows = packed = 0
    for block in blocks:
        group.append(block)
        rows, packed = rows + block.rows, packed + len(block.data)
        separate = layout.compression not in BYTE_CODECS and layout.compression != NONE
        # Only the last strip of an image may have fewer rows than the others.
        full = rows * layout.row_bytes >= _GROUP_BYTES or packed >= _PACKED_BYTES or len(group) >= _GROUP_BLOCKS
        if separate or full or block.rows < layout.block_height:
            yield group
            group, rows, packed = [], 0, 0
    if group:
        yield group


def _unpack(group: list[_Block], layout: Layout, page: Directory) -> NDArray[np.uint8]:
    """Returns the bytes of the blocks, one below the other: (rows, bytes of a row)."""
    import numpy as np

    rows = sum(block.rows for block in group)
    if layout.compression in IMAGE_CODECS and layout.bits == 8:
        return _unpack_image(group[0], layout)
    if layout.compression in ARRAY_CODECS:
        return _unpack_array(group[0], layout, page.numbers(LERC_PARAMETERS))
    if layout.compression == NONE:
        data: Any = b"".join(block.data for block in group)
        if layout.fill_order == 2:
            data = data.translate(_REVERSED_BITS)
    else:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(_wrap(group, layout, page.content(JPEG_TABLES))))
        image.load()
        data = image.tobytes()
    return np.frombuffer(data, np.uint8).reshape(rows, layout.row_bytes)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _unpack_image(block: _Block, layout: Layout) -> NDArray[np.uint8]:
    """Decodes a strip or tile that is an image file of its own."""
    import numpy as np

    name, module, reader = IMAGE_CODECS[layout.compression]
    image = getattr(import_module(module), reader)(io.BytesIO(block.data))
    if image.size != (layout.block_width, block.rows) or len(image.getbands()) != layout.stored:
        raise UnsupportedImageError(
            f"a TIFF with {name} compression whose parts have other sizes than it says is not supported"
        )
    image.load()
    if len(image.tobytes()) != layout.row_bytes * block.rows:
        raise UnsupportedImageError(f"a TIFF with {name} compression of mode {image.mode} is not supported")
    return np.frombuffer(image.tobytes(), np.uint8).reshape(block.rows, layout.row_bytes)


def _unpack_array(block: _Block, layout: Layout, lerc_parameters: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decodes a strip or tile with imagecodecs, into an array of the size that the page says.

    Returns:
        The samples in the layout of `unpacked_layout`, (rows, bytes of a row).
    """
    import imagecodecs
    import numpy as np

    name, function = ARRAY_CODECS[layout.compression]
    kind = _sample_type(layout)
    shape = (block.rows, layout.block_width, layout.stored)[: 2 if layout.stored == 1 else 3]
    data: bytes | bytearray = block.data
    row_bytes = unpacked_layout(layout).row_bytes
    size = block.rows * row_bytes
    if layout.compression == LERC and lerc_parameters[1:2] == (1,):
        data = zlib.decompressobj().decompress(data, 2 * size + 2**16)
    elif layout.compression == LERC and lerc_parameters[1:2] == (2,):
        data = imagecodecs.zstd_decode(data, out=2 * size + 2**16)
    if name == "JPEG 2000":
        data = _checked_codestream(data, shape[1], shape[0], layout.stored)
    # The size of an array that it makes itself would be that of the data, which a hostile file chooses.
    out = np.zeros(shape, kind.newbyteorder("="))
    try:
        samples = np.asarray(getattr(imagecodecs, function)(data, out=out))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(
            f"its {name} data is damaged, or of another size or depth than it says: {error}"
        ) from error
    return np.frombuffer(samples.astype(kind).tobytes(), np.uint8).reshape(block.rows, row_bytes)


def _checked_codestream(data: bytes | bytearray, width: int, height: int, channels: int) -> bytes | bytearray:
    """Returns the codestream in JPEG 2000 data, without boxes, if its header is that of the image.

    OpenJPEG decodes an image whole, before imagecodecs compares its size. It would find the codestream by the
    boxes before it, and these can hold another header. So it is given only what is checked here.

    Raises:
        ValueError: the header (ISO/IEC 15444-1, A.5.1) is of another size or number of channels.
    """
    start = data.find(b"\xff\x4f\xff\x51", 0, _HEADER_BYTES)
    if start < 0 or len(data) < start + 42:
        raise ValueError("its JPEG 2000 data has no header")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    [found] = struct.unpack_from(">H", data, start + 40)
    if (right - left, bottom - top, found) != (width, height, channels):
        raise ValueError(
            f"its JPEG 2000 data is of {right - left}×{bottom - top} with {found} channels, "
            f"in a part of {width}×{height} with {channels}"
        )
    return data[start:]


def _wrap(group: list[_Block], layout: Layout, jpeg_tables: bytes) -> bytes:
    """Makes a TIFF of grey bytes from compressed strips or tiles, so that libtiff unpacks them and nothing else."""
    width, rows = layout.row_bytes, sum(block.rows for block in group)
    samples, photometric = 1, BLACK_IS_ZERO
    if width * rows > _MOST_PILLOW_PIXELS and width % 4 == 0 and layout.compression != JPEG:
        width, samples, photometric = width // 4, 4, SEPARATED
    lengths = [len(block.data) for block in group]
    tags = {
        WIDTH: ("I", [width]),
        HEIGHT: ("I", [rows]),
        BITS: ("H", [8] * samples),
        COMPRESSION: ("H", [layout.compression]),
        PHOTOMETRIC: ("H", [photometric]),
        FILL_ORDER: ("H", [layout.fill_order]),
        STRIP_OFFSETS: ("I", lengths),  # of the same length as the offsets, which are not known yet
        SAMPLES: ("H", [samples]),
        STRIP_ROWS: ("I", [group[0].rows]),
        STRIP_BYTES: ("I", lengths),
    }
    if jpeg_tables:
        tags[JPEG_TABLES] = ("B", list(jpeg_tables))
    start = 8 + 2 + 12 * len(tags) + 4
    more = sum(size for form, values in tags.values() if (size := struct.calcsize(f"<{len(values)}{form}")) > 4)
    offsets, place = [], start + more
    for length in lengths:
        offsets.append(place)
        place += length
    tags[STRIP_OFFSETS] = ("I", offsets)
    entries, outside = b"", b""
    for tag, (form, values) in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}{form}", *values)
        kind = {"B": 7, "H": 3, "I": 4}[form]
        entries += struct.pack("<HHI", tag, kind, len(values))
        entries += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(outside))
        outside += data if len(data) > 4 else b""
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return b"".join((header, entries, bytes(4), outside, *(block.data for block in group)))


def _block_values(packed: NDArray[np.uint8], layout: Layout) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yields (the first row, the samples of some rows), (rows, width of a strip or tile, channels stored)."""
    step = max(1, _ROW_VALUES // (layout.block_width * layout.stored))
    for start in range(0, len(packed), step):
        part = packed[start : start + step]
        yield start, _to_values(part, layout).reshape(len(part), layout.block_width, layout.stored)


def _sample_type(layout: Layout) -> np.dtype[Any]:
    """Returns the type of the samples as NumPy has them, in the byte order of the file."""
    import numpy as np

    kind = {UINT: "u", INT: "i", FLOAT: "f"}[layout.sample_format]
    size = next(size for size in (8, 16, 32, 64) if layout.bits <= size)
    return np.dtype(f"{layout.order}{kind}{size // 8}")


def _to_values(packed: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    """Converts rows of bytes to samples, (rows, samples of a row)."""
    import numpy as np

    count = layout.block_width * layout.stored
    kind = _sample_type(layout)
    if layout.bits != 8 * kind.itemsize:
        if layout.predictor != 1:
            raise UnsupportedImageError(f"a TIFF with a predictor for {layout.bits} bits is not supported")
        return _unpack_bits(packed, layout, count)
    if layout.predictor == 3:
        # Adobe Photoshop TIFF Technical Note 3: the bytes of a row are differences, sorted by significance.
        summed = packed.copy()
        for channel in range(layout.stored):
            np.cumsum(
                packed[:, channel :: layout.stored], axis=1, dtype=np.uint8, out=summed[:, channel :: layout.stored]
            )
        parts = summed.reshape(len(packed), kind.itemsize, count).transpose(0, 2, 1)
        return np.ascontiguousarray(parts).view(kind.newbyteorder(">")).reshape(len(packed), count)
    values = np.ascontiguousarray(packed).view(kind)
    if layout.predictor == 2:
        native = values.astype(kind.newbyteorder("=")).view(f"u{kind.itemsize}")
        steps = native.reshape(len(packed), layout.block_width, layout.stored)
        summed = np.cumsum(steps, axis=1, dtype=steps.dtype).reshape(len(packed), count)
        return summed.view(kind.newbyteorder("="))
    return values


def _unpack_bits(packed: NDArray[np.uint8], layout: Layout, count: int) -> NDArray[Any]:
    """Converts rows of integers of any number of bits to samples. They are stored from the highest bit on."""
    import numpy as np

    if layout.bits == 24 and layout.order == "<":  # whole bytes follow the order of the file
        packed = packed.reshape(len(packed), count, 3)[:, :, ::-1].reshape(len(packed), -1)
    kind = _sample_type(layout).newbyteorder(">")
    bits = np.unpackbits(packed, axis=1, count=count * layout.bits).reshape(len(packed), count, layout.bits)
    padded = np.zeros((len(packed), count, 8 * kind.itemsize), np.uint8)
    padded[:, :, -layout.bits :] = bits
    return np.packbits(padded, axis=2).view(kind).reshape(len(packed), count)
