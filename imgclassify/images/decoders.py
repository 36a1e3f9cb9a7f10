"""Knows the image formats: how their files begin, and which class reads each."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple

from imgclassify.errors import ImageEmptyError, ImageUnreadableError, UnsupportedImageError
from imgclassify.images import camera_raw


class Decoder(NamedTuple):
    """One image format: how its files begin, and the class that reads them.

    The class is called directly. `Image.open` would import every Pillow plugin to find a rare format. It would
    also apply Pillow's own pixel limit, which can only be lifted through Pillow's globals.
    """

    format: str
    signature: re.Pattern[bytes]
    module: str
    reader: str
    missing: str = "the installed Pillow was built without this format"
    """The error message if the class cannot be used."""
    reads_whole_file: bool = False
    """Whether the class reads the whole file before it looks at the header."""
    checks_pixels: bool = False
    """Whether `reader` is a function of this package, which takes the limit on pixels as its second argument."""


def _define_decoder(format_name: str, signature: bytes, module: str, reader: str, **more: Any) -> Decoder:
    return Decoder(format_name, re.compile(signature, re.DOTALL), module, reader, **more)


_RAW_DECODER = _define_decoder(
    "camera RAW", camera_raw.SIGNATURES, "imgclassify.images.camera_raw", "open_raw", checks_pixels=True
)
"""Checked before _DECODERS, because some camera RAW files begin as a TIFF does."""

# AVIF comes before HEIF: files of both may have the brand "mif1", and only AVIF's own brands tell them apart.
_DECODERS = (
    # Also matches MPO files, of which this class reads the first image.
    _define_decoder("JPEG", rb"\xff\xd8\xff", "PIL.JpegImagePlugin", "JpegImageFile"),
    _define_decoder("PNG", rb"\x89PNG\r\n\x1a\n", "imgclassify.images.png", "open_png", checks_pixels=True),
    _define_decoder("WEBP", rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin", "WebPImageFile", reads_whole_file=True),
    _define_decoder("GIF", rb"GIF8[79]a", "PIL.GifImagePlugin", "GifImageFile"),
    _define_decoder(
        "TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "imgclassify.images.tiff", "open_tiff", checks_pixels=True
    ),
    # Includes the length of the second header. Otherwise every text that begins with "BM" would be a damaged
    # bitmap.
    _define_decoder("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "PIL.BmpImagePlugin", "BmpImageFile"),
    _define_decoder("PPM", rb"P[1-6f]\s+[#\d]", "PIL.PpmImagePlugin", "PpmImageFile"),
    _define_decoder(
        "AVIF", rb".{4}ftyp(.{4}){0,13}?avi[fs]", "PIL.AvifImagePlugin", "AvifImageFile", reads_whole_file=True
    ),
    _define_decoder(
        "HEIF",
        rb".{4}ftyp(.{4}){0,13}?(he[iv][cxms]|mif[12]|msf1)",
        "pillow_heif",
        "HeifImageFile",
        reads_whole_file=True,
        missing="HEIC needs the extra imgclassify[heif]: pip install pillow-heif",
    ),
    _define_decoder(
        "JPEG2000", rb"\xff\x4f\xff\x51|\0{3}\x0cjP  \r\n\x87\n", "PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"
    ),
    _define_decoder(
        "JPEGXL",
        rb"\xff\x0a|\0{3}\x0cJXL \r\n\x87\n",
        "imgclassify.images.jpeg_xl",
        "JpegXlImageFile",
        reads_whole_file=True,
        missing="JPEG XL needs the extra imgclassify[jxl]: pip install pillow-jxl-plugin",
    ),
    _define_decoder(
        "DICOM",
        rb".{128}DICM",
        "imgclassify.images.dicom",
        "DicomImageFile",
        reads_whole_file=True,
        missing="DICOM needs the extra imgclassify[dicom]: pip install pydicom",
    ),
)

IMAGE_FORMATS = tuple(decoder.format for decoder in _DECODERS)
"""The formats that are opened, by Pillow's names. Formats that run a program, contain scripts or have no
signature are not opened."""

_HEADER_BYTES = 132
"""How many of the first bytes the signatures need. A DICOM file has its own after 128 others."""


def identify_format(stream: BinaryIO) -> Decoder:
    header = _read_start(stream, _HEADER_BYTES)
    if not header:
        raise ImageEmptyError("the file is empty")
    for decoder in (_RAW_DECODER, *_DECODERS):
        if decoder.signature.match(header):
            return decoder
    return _identify_foreign(stream)


def _identify_foreign(stream: BinaryIO) -> Decoder:
    # Imported only now, because a run over images needs neither table.
    from imgclassify.file_kinds import HEAD_BYTES
    from imgclassify.images.foreign_formats import describe_foreign, find_video

    head = _read_start(stream, HEAD_BYTES)
    video = find_video(head)
    if video is None:
        raise describe_foreign(head)
    missing = f"a video ({video.name}), which needs the extra imgclassify[video]: pip install av"
    return _define_decoder(
        "video", video.signature, "imgclassify.images.video", "open_video", missing=missing, checks_pixels=True
    )


def _read_start(stream: BinaryIO, size: int) -> bytes:
    """Reads the first bytes of a stream that is at its start, and leaves it there."""
    try:
        start = stream.read(size)
        stream.seek(0)
    except OSError as error:
        raise ImageUnreadableError(f"cannot read the file: {error.strerror or error}") from error
    return start


def find_reader(decoder: Decoder) -> Callable[..., Any]:
    try:
        module = import_module(decoder.module)
    except ImportError as error:
        raise UnsupportedImageError(decoder.missing) from error
    if not getattr(module, "SUPPORTED", True):
        raise UnsupportedImageError(decoder.missing)
    reader: Callable[..., Any] = getattr(module, decoder.reader)
    return reader
