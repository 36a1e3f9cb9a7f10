"""Tells camera RAW files by their content, and develops them with LibRaw if the extra `raw` is installed.

A camera RAW holds what the sensor measured, and mostly a small JPEG beside it. The JPEG is never taken for the
image.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from imgclassify.errors import CorruptImageError, ImageTooLargeError, UnsupportedImageError, describe_error
from imgclassify.sources import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgclassify.images.tiff.directories import Directory

SIGNATURES = (
    rb"FUJIFILMCCD-RAW|"  # Fujifilm: RAF
    rb".{4}ftypcrx |"  # Canon: CR3
    rb"II\*\0.{4}CR\x02|II\x1a\0\0\0HEAPCCDR|"  # Canon: CR2, CRW
    rb"IIR[OS]|MMOR|"  # Olympus: ORF
    rb"IIU\0|"  # Panasonic, Leica: RW2, RAW, RWL
    rb"\0MRM|"  # Minolta: MRW
    rb"FOVb"  # Sigma: X3F
)
"""How camera RAW files begin, except those that begin as any TIFF does: DNG, NEF, ARW, PEF and others."""

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
            "a camera RAW file needs the extra imgclassify[raw]: pip install rawpy"
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


def _first_words(error: Exception) -> str:
    # rawpy passes LibRaw's text on as bytes.
    given = error.args[0] if error.args else ""
    return given.decode(errors="replace") if isinstance(given, bytes) else describe_error(error)
