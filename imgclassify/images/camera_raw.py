"""Tells camera RAW files by their content, and develops them with LibRaw if the extra `raw` is installed.

A camera RAW holds what the sensor measured, and mostly a small JPEG beside it. The JPEG is never taken for the
image.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from imgclassify.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError, describe_error
from imgclassify.sources import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgclassify.images.tiff.directories import Directory

_KINDS = (
    (rb"FUJIFILMCCD-RAW", "Fujifilm RAF"),
    (rb"IIU\0", "Panasonic RW2"),
    (rb"IIR[OS]|MMOR", "Olympus ORF"),
    (rb".{4}ftypcrx ", "Canon CR3"),
    (rb"II\*\0.{4}CR\x02", "Canon CR2"),
    (rb"II\x1a\0\0\0HEAPCCDR", "Canon CRW"),
    (rb"FOVb", "Sigma X3F"),
    (rb"\0MRM", "Minolta MRW"),
)
"""How camera RAW files begin, except those that begin as any TIFF does: DNG, NEF, ARW, PEF and others."""
_HEADER_BYTES = 16

SIGNATURES = b"|".join(pattern for pattern, _ in _KINDS)

_DNG_VERSION = 50706
_PHOTOMETRIC = 262
_COLOR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892


def has_raw_directory(directories: Iterable[Directory]) -> bool:
    """Whether a directory of a TIFF is that of a camera RAW: the TIFF is a DNG, or a page holds a sensor's data."""
    return any(
        _DNG_VERSION in directory.entries or directory.number(_PHOTOMETRIC) in (_COLOR_FILTER_ARRAY, _LINEAR_RAW)
        for directory in directories
    )


def open_raw(stream: BinaryIO, max_pixels: int) -> Image.Image:
    """Develops a camera RAW as the camera would: its white balance, sRGB, 8 bits, upright.

    Raises:
        UnsupportedImageError: the extra is not installed, or LibRaw does not know the camera.
        ImageTooLargeError: the image has more than `max_pixels` pixels.
        CorruptImageError: it cannot be developed.
    """
    try:
        import rawpy
    except ImportError as error:
        raise UnsupportedImageError(
            f"{_describe_kind(stream)}, which needs the extra imgclassify[raw]: pip install rawpy"
        ) from error
    if stream.seek(0, io.SEEK_END) > MAX_BYTES:
        raise ImageTooLargeError(
            f"the file is larger than {MAX_BYTES // 2**20} MiB, and a camera RAW must be read as a whole"
        )
    stream.seek(0)
    try:
        with rawpy.imread(stream) as raw:
            sizes = raw.sizes
            pixels = sizes.raw_width * sizes.raw_height
            if pixels > max_pixels:
                raise ImageTooLargeError(
                    f"{sizes.raw_width} × {sizes.raw_height} is {pixels} pixels, and the limit is {max_pixels}"
                )
            return Image.fromarray(raw.postprocess(use_camera_wb=True, output_bps=8))
    except rawpy.LibRawFileUnsupportedError as error:
        raise UnsupportedImageError("a camera RAW file of a kind that LibRaw does not know") from error
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        raise CorruptImageError(f"damaged camera RAW file: {_first_words(error)}") from error


def _describe_kind(stream: BinaryIO) -> str:
    stream.seek(0)
    header = stream.read(_HEADER_BYTES)
    name = next((name for pattern, name in _KINDS if re.match(pattern, header, re.DOTALL)), None)
    return f"a camera RAW file ({name})" if name else "a camera RAW file"


def _first_words(error: Exception) -> str:
    # rawpy passes LibRaw's text on as bytes.
    given = error.args[0] if error.args else ""
    return given.decode(errors="replace") if isinstance(given, bytes) else describe_error(error)
