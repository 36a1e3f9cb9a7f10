"""Says what a file is that none of the decoders opens: another image format, a video, or no image.

Only the first bytes are looked at. The module is imported for the first file that is not opened.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from imgclassify.errors import ImageError, NotAnImageError, UnsupportedImageError
from imgclassify.file_kinds import decode_text, find_kind

_IMAGE_FORMATS = (
    (rb"8BPS\0[\x01\x02]", "Photoshop (PSD)"),
    (rb"\0\0[\x01\x02]\0[^\0]\0.{3}\0", "Windows icon (ICO)"),
    (rb"icns", "Apple icon (ICNS)"),
    (rb"v/1\x01", "OpenEXR (EXR)"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance (HDR)"),
    (rb"SDPX|XPDS", "DPX"),
    (rb"DDS \x7c\0{3}", "DirectDraw Surface (DDS)"),
    (rb"\xabKTX ", "Khronos texture (KTX)"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"qoif", "QOI"),
    (rb"gimp xcf ", "GIMP (XCF)"),
    (rb"SIMPLE  =", "FITS"),
    (rb"AT&TFORM.{4}DJV", "DjVu"),
    (rb"FLIF[1-F]", "FLIF"),
    (rb"BPG\xfb", "BPG"),
    (rb"[\x8a\x8b][MJ]NG\r\n\x1a\n", "MNG"),
    (rb"P7\n", "PAM"),
    (rb"farbfeld", "farbfeld"),
    (rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]", "SGI"),
    (rb"\x0a[\0-\x05][\0\x01][\x01\x02\x04\x08]", "PCX"),
    (rb"\x59\xa6\x6a\x95", "Sun raster"),
    (rb"/\* XPM \*/", "XPM"),
    (rb"\xd7\xcd\xc6\x9a\0\0|\x01\0{3}.{36} EMF", "Windows metafile (WMF, EMF)"),
)


class VideoFormat(NamedTuple):
    """A container of videos."""

    signature: bytes
    name: str
    ffmpeg_name: str


_VIDEO_FORMATS = (
    VideoFormat(rb".{4}ftyp(?!M4A )|\0.{3}(moov|mdat|wide|free|skip)", "MP4 or QuickTime", "mov"),
    VideoFormat(rb"\x1aE\xdf\xa3", "Matroska or WebM", "matroska"),
    VideoFormat(rb"RIFF.{4}AVI ", "AVI", "avi"),
    VideoFormat(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV", "asf"),
    VideoFormat(rb"FLV\x01", "FLV", "flv"),
    VideoFormat(rb"OggS\0", "Ogg", "ogg"),
    VideoFormat(rb"\0\0\x01\xb3", "MPEG", "mpegvideo"),
    VideoFormat(rb"\0\0\x01\xba", "MPEG", "mpeg"),
    VideoFormat(rb"G.{187}G.{187}G|.{4}G.{191}G.{191}G", "MPEG", "mpegts"),
)


def find_video(head: bytes) -> VideoFormat | None:
    """Returns the format of a video.

    Args:
        head: as in `describe_foreign`.
    """
    return next((each for each in _VIDEO_FORMATS if re.match(each.signature, head, re.DOTALL)), None)


def describe_foreign(head: bytes) -> ImageError:
    """Returns the error for a file that no decoder opens.

    Args:
        head: the first file_kinds.HEAD_BYTES bytes, or the whole of a smaller file.
    """
    if name := _find_name(_IMAGE_FORMATS, head) or ("SVG" if _is_svg(head) else None):
        return UnsupportedImageError(f"the format {name} is not opened; convert the file to PNG or JPEG")
    if kind := find_kind(head):
        return NotAnImageError(f"not an image but {kind.name}; {kind.advice}")
    return NotAnImageError(f"not an image in a supported format: the file begins with {head[:12]!r}")


def _find_name(formats: tuple[tuple[bytes, str], ...], head: bytes) -> str | None:
    return next((name for pattern, name in formats if re.match(pattern, head, re.DOTALL)), None)


def _is_svg(head: bytes) -> bool:
    """Whether the first element of an XML document is that of a drawing."""
    text = decode_text(head)
    if not text or not text.startswith("<"):
        return False
    element = re.search(r"<(?:\w+:)?(\w+)", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    return element is not None and element[1].lower() == "svg"
