"""Turns the exceptions of decoders into ImageErrors, and keeps their warnings off the terminal."""

from __future__ import annotations

import errno
import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from imgclassify.errors import (
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    ImageUnreadableError,
    TruncatedImageError,
    UnsupportedImageError,
    describe_error,
    with_article,
)
from imgclassify.images.truncation import is_truncated

_LIBHEIF_LIMIT = "Security limit exceeded: "
"""Part of libheif's error messages for files beyond its own limits."""

_OUT_OF_MEMORY = re.compile(r"out of memory|memory allocation|error -9$", re.IGNORECASE)
"""Error messages of decoders that cannot allocate memory and raise something other than MemoryError. For
libtiff, Pillow reports only the number."""

_UNSUPPORTED = re.compile(r"unsupported (BMP|feature)|unable to determine J2K image mode", re.IGNORECASE)
"""Error messages of Pillow and libheif for files that are whole, but of a kind that they do not decode."""

_DISK_FAILURES = {errno.EIO, errno.ESTALE}

_WARNING_MODULES = r"(PIL|pillow_heif|pillow_jxl|pydicom|imgclassify\.images\.dicom)\b"

# The entry that `warnings.filterwarnings` adds to `warnings.filters`. It shows whether the filter is still
# there.
_WARNING_FILTER = ("ignore", None, Warning, re.compile(_WARNING_MODULES), 0)

_silencing = threading.Lock()


@contextmanager
def translate_errors(format_name: str, stream: BinaryIO | None = None) -> Iterator[None]:
    """Turns any exception of a decoder into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # on hostile bytes, decoders raise any exception
        raise _to_image_error(error, format_name, stream) from error


def _to_image_error(error: Exception, format_name: str, stream: BinaryIO | None) -> ImageError:
    """Returns the ImageError for an exception that a decoder raised.

    Args:
        stream: the stream that was decoded. None if the image was in memory.
    """
    if isinstance(error, Image.DecompressionBombError):  # some readers check Pillow's own pixel limit
        return ImageTooLargeError(f"more pixels than Pillow allows in {with_article(format_name)} file")
    words = describe_error(error)
    if _LIBHEIF_LIMIT in words:
        return ImageTooLargeError(f"exceeds a limit of its decoder: {words.rpartition(_LIBHEIF_LIMIT)[2]}")
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(words):
        return ImageTooLargeError("not enough memory to decode it", out_of_memory=True)
    if isinstance(error, OSError) and error.errno in _DISK_FAILURES:
        return ImageUnreadableError(f"cannot read the file: {error.strerror}")
    if stream is not None and format_name == "JPEG" and (process := _name_process(stream)):
        return UnsupportedImageError(
            f"{process} per sample is not supported, only JPEG of 8 bits that is not lossless"
        )
    if _UNSUPPORTED.search(words):
        return UnsupportedImageError(f"{with_article(format_name)} file of a kind that is not supported: {words}")
    if stream is not None and is_truncated(stream, format_name, words):
        return TruncatedImageError(f"damaged {format_name} file: it ends too early")
    return CorruptImageError(f"damaged {format_name} file: {_describe_failure(error)}")


def _name_process(stream: BinaryIO) -> str | None:
    from imgclassify.images.jpeg_process import name_unsupported_process

    return name_unsupported_process(stream)


def _describe_failure(error: Exception) -> str:
    words = describe_error(error)
    # At the end of the data Pillow's parsers raise one of these, which Pillow wraps in a SyntaxError.
    if isinstance(error.__cause__ or error, struct.error | IndexError | EOFError) or "runcated" in words:
        return "a part of it ends too early"
    # Pillow's message for a header without a mode, or with a side of 0 pixels.
    return "its header gives no size" if words == "not identified by this driver" else words


def silence_decoders() -> None:
    """Keeps Pillow's warnings about damaged metadata off the terminal, where they would not name the image.

    Adds one filter to the process's warning filters, for warnings raised in Pillow's modules. Adds it again if
    other code has restored the filters since. `warnings.catch_warnings` is not used, because it is not
    thread-safe.
    """
    if _WARNING_FILTER not in warnings.filters:
        with _silencing:
            if _WARNING_FILTER not in warnings.filters:
                warnings.filterwarnings("ignore", module=_WARNING_MODULES)
                logging.getLogger("PIL").addHandler(logging.NullHandler())
