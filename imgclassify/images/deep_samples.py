"""Handles samples of more than 8 bits of the formats that Pillow opens: their declared depth, and 16-bit RGB."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from PIL import Image, ImageFile

from imgclassify.images.declared_colors import convert_samples, find_conversion, make_notes
from imgclassify.images.info import COLOR_KEYS
from imgclassify.images.png_chunks import read_png_chunk
from imgclassify.images.white_level import UNDECLARED, DeclaredLevels, Levels, scale, scale_to_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Reader: TypeAlias = Callable[[BinaryIO], ImageFile.ImageFile]

_FULL = DeclaredLevels(white=65535)
_CODESTREAM = b"\xff\x4f\xff\x51"
"""SOC and SIZ, which begin every codestream of JPEG 2000."""
_HEADER_BYTES = 2**12

_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""The raw modes in which Pillow takes the high byte of each 16-bit sample of a PNG, and those that take the low
byte."""
_GREY_ALPHA = "LA;16B"
_MOST_LOW_BITS = 14
"""Samples of 16 bits that all fit this many are scaled. Of others, the high bytes are the image."""


def declare_levels(image: Image.Image, stream: BinaryIO) -> None:
    """Stores what the file says about the levels of deep grey as `image.info["declared"]`.

    Args:
        image: as Pillow has opened it.
        stream: the file. Its position is kept.
    """
    if image.format == "PNG":
        image.info["declared"] = DeclaredLevels(significant_bits=significant_bits(stream))
    elif image.format == "PPM":  # Pillow has scaled integers by the header's largest value
        image.info["declared"] = UNDECLARED if image.mode == "F" else _FULL
    elif image.format == "JPEG2000":  # Pillow has shifted fewer bits up to 16
        image.info["declared"] = UNDECLARED if _jpeg2000_bits(stream) == 16 else _FULL


def load_low_bits(image: Any) -> Image.Image | None:
    """Decodes a PNG of 16-bit RGB, or with alpha, whose samples use only the lower bits, or are not sRGB.

    Args:
        image: as Pillow has opened it, not decoded; or an image without a file.

    Returns:
        The image in mode LA, RGB or RGBA, with its levels as `info["levels"]`, and with a note as
        `info["colors"]` if it was converted to sRGB. None for any other PNG.
    """
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0].args if tiles else None
    if raw_mode not in (*_LOW_BYTES, _GREY_ALPHA):
        return None
    import numpy as np

    stream, read = image.fp, type(image)
    declared = DeclaredLevels(significant_bits=significant_bits(stream))
    conversion = find_conversion(image.info, "L" if raw_mode == _GREY_ALPHA else "RGB")
    image.load()
    high = np.asarray(image)
    colors, mode = 3, image.mode
    if raw_mode == _GREY_ALPHA:  # of which Pillow makes RGBA
        high, colors, mode = high[:, :, [0, 3]], 1, "LA"
    if conversion is None and high[:, :, :colors].max() >> (_MOST_LOW_BITS - 8):
        return None
    low = _grey_alpha_low_bytes(stream, read) if raw_mode == _GREY_ALPHA else _low_bytes(stream, read, raw_mode)
    values = high.astype(np.uint16)
    del high
    values <<= 8
    values |= low
    del low
    levels: Levels | None
    if conversion is None:
        scaled, levels = scale_to_bytes(values[:, :, :colors], declared)
        notes: dict[Any, Any] = {"levels": levels}
    else:
        scaled, levels = convert_samples(values[:, :, :colors], declared, conversion)
        notes = make_notes(conversion, levels)
        mode = mode.replace("L", "RGB")
    if isinstance(transparent := image.info.get("transparency"), tuple):
        scaled[(values == transparent).all(axis=2)] = 255
    if mode.endswith("A"):
        alpha = values[:, :, -1:]
        white = levels.white if levels and alpha.max() <= levels.white else 65535
        scaled = np.concatenate((scaled, scale(alpha, Levels(0, white, ""))), axis=2)
    found = Image.frombytes(mode, image.size, scaled.tobytes())
    dealt_with = COLOR_KEYS | {"transparency"}
    found.info = {key: value for key, value in image.info.items() if key not in dealt_with} | notes
    return found


def _low_bytes(stream: BinaryIO, read: _Reader, raw_mode: str) -> NDArray[np.uint8]:
    import numpy as np

    stream.seek(0)
    image = read(stream)
    image.tile = [tile._replace(args=_LOW_BYTES[raw_mode]) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _grey_alpha_low_bytes(stream: BinaryIO, read: _Reader) -> NDArray[np.uint8]:
    """Returns the low bytes of grey and alpha, for which Pillow has no raw mode.

    A header that says RGBA of 8 bits makes four channels of the same four bytes.
    """
    import numpy as np

    stream.seek(0)
    content = bytearray(stream.read())
    content[24:26] = b"\x08\x06"  # the depth and the colour type of IHDR
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    image = read(io.BytesIO(content))
    image.load()
    return np.asarray(image)[:, :, 1::2]


def load_deep_heif(image: ImageFile.ImageFile, stream: BinaryIO) -> Image.Image | None:
    """Decodes a HEIF of more than 8 bits that is converted to sRGB, from all of its bits.

    Args:
        image: as pillow_heif has opened it, which gives 8 bits.

    Returns:
        The image in mode RGB or RGBA, in sRGB, with a note as `info["colors"]`. None for any other HEIF.
    """
    info = image.info
    is_deep = info.get("bit_depth", 8) > 8 and image.mode in ("RGB", "RGBA") and getattr(image, "n_frames", 1) == 1
    conversion = find_conversion(info, image.mode) if is_deep else None
    if conversion is None:
        return None
    import numpy as np
    import pillow_heif

    stream.seek(0)
    file = pillow_heif.HeifFile(stream, convert_hdr_to_8bit=False, hdr_to_16bit=True)
    values = np.asarray(file[file.primary_index])
    colors, _ = convert_samples(values[:, :, :3], _FULL, conversion)
    if image.mode == "RGBA":
        colors = np.concatenate((colors, (values[:, :, 3:] >> 8).astype(np.uint8)), axis=2)
    found = Image.fromarray(colors)
    found.info = {key: value for key, value in info.items() if key not in COLOR_KEYS}
    found.info |= make_notes(conversion, None)
    return found


def significant_bits(stream: BinaryIO) -> int | None:
    """Returns the bits that the sBIT chunk of a PNG declares: the most of its channels. None without the chunk.

    The position of the stream is kept.
    """
    return max((read_png_chunk(stream, b"sBIT") or b"")[:3], default=0) or None


def _jpeg2000_bits(stream: BinaryIO) -> int | None:
    """Returns the precision of the first component (ISO/IEC 15444-1, A.5.1), None if it is not found."""
    position = stream.tell()
    stream.seek(0)
    header = stream.read(_HEADER_BYTES)
    stream.seek(position)
    start = header.find(_CODESTREAM)
    return (header[start + 42] & 0x7F) + 1 if 0 <= start < len(header) - 42 else None
