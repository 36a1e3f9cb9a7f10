"""Reads JPEG XL, with pillow-jxl-plugin. Importing this module raises ImportError without that package."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import ImageFile
from pillow_jxl.JpegXLImagePlugin import JXLImageFile

_SIGNATURE = b"\xff\x0a"
_HEADER_BYTES = 16
"""More than the size of the signature and the longest size header."""
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height, by the number in a size header (ISO/IEC 18181-1, SizeHeader)."""
_SIDE_BITS = (9, 13, 18, 30)


class JpegXlImageFile(ImageFile.ImageFile):
    """The first frame of a JPEG XL file.

    The plugin's own class decodes the pixels as soon as it is created. This one reads only the size then, so that
    an image with too many pixels is not decoded.
    """

    format = "JPEGXL"

    def _open(self) -> None:
        assert self.fp is not None
        self._content: bytes | None = self.fp.read()
        self._size = read_size(self._content)
        self._mode = "RGB"  # until it is decoded

    def load(self) -> Any:
        if self._content is not None:
            try:
                decoded = JXLImageFile(BytesIO(self._content))
            except RuntimeError as error:
                if "Generic Error" not in str(error):
                    raise
                # The plugin's own text is advice on how to build libjxl.
                raise ValueError("its codestream is damaged or ends too early") from error
            self._content = None
            # libjxl turns the image upright.
            if sorted(decoded.size) != sorted(self.size):
                raise ValueError("its size is not the one in its header")
            decoded.load()
            self.im, self._size, self._mode = decoded.im, decoded.size, decoded.mode
            if profile := decoded.info.get("icc_profile"):
                self.info["icc_profile"] = profile
            if decoded.jpeg:  # a JPEG inside, which is decoded as it is, and not turned
                self.info["exif"] = decoded.info.get("exif", b"")
        return super().load()


def read_size(content: bytes) -> tuple[int, int]:
    """Returns the (width, height) that the header of a JPEG XL file gives, before it is turned upright.

    Raises:
        ValueError: there is no such header.
    """
    header = _codestream_header(content)
    if not header.startswith(_SIGNATURE) or len(header) < _HEADER_BYTES:
        raise ValueError("it has no codestream")
    bits = int.from_bytes(header[len(_SIGNATURE) :], "little")

    def read_bits(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def read_side() -> int:
        return 8 * (read_bits(5) + 1) if is_small else read_bits(_SIDE_BITS[read_bits(2)]) + 1

    is_small = read_bits(1)
    height = read_side()
    ratio = read_bits(3)
    if ratio == 0:
        return read_side(), height
    width, divisor = _RATIOS[ratio]
    return height * width // divisor, height


def _codestream_header(content: bytes) -> bytes:
    """Returns the first bytes of the codestream, which is in boxes or stands alone."""
    if content.startswith(_SIGNATURE):
        return content[:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
    header = b""
    for kind, begin, end in _iter_boxes(content):
        if kind in (b"jxlc", b"jxlp"):
            begin += 4 * (kind == b"jxlp")  # a part begins with its number
            header += content[begin : min(end, begin + _HEADER_BYTES - len(header))]
            if kind == b"jxlc" or len(header) >= _HEADER_BYTES:
                break
    return header.ljust(_HEADER_BYTES, b"\0")


def _iter_boxes(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the (kind, begin, end) of the content of each box."""
    position = 0
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        header = 8
        if size == 1 and position + 16 <= len(content):
            (size,) = struct.unpack_from(">Q", content, position + 8)
            header = 16
        end = len(content) if size == 0 else position + size
        if end < position + header:
            return
        yield kind, position + header, end
        position = end
