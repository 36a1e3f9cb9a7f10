"""The `Source` class, the file suffixes of images, and the reading code that all kinds of source share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn

from imgclassify.errors import ImageError, ImageTooLargeError, ImageUnreadableError, describe_error

IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heics", ".heif", ".heifs", ".hif"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "JPEG XL": (".jxl",),
    "DICOM": (".dcm", ".dicom"),
    "netpbm": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
}
"""The suffixes of each image format, in lower case."""
IMAGE_SUFFIXES = frozenset(chain.from_iterable(IMAGE_FORMATS.values()))
"""Suffixes of files taken from a folder or an archive, in lower case. A file named directly may have any."""

_VIDEO = "3gp avi flv m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts webm wmv"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _VIDEO.split())
"""Suffixes of videos, which are taken from a folder or an archive only if their frames are asked for."""

_RAW = "3fr arw cr2 cr3 crw dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW.split())
"""Suffixes of camera RAW files. They are not taken from folders, because most have a JPEG of the same image beside
them."""

MAX_BYTES = 256 * 1024 * 1024
"""Maximum size of what is held in memory whole: a download, an archive member, standard input or a pipe."""

CHUNK_BYTES = 1024 * 1024

Notice = Callable[[str], None]
Opener = Callable[[], BinaryIO]


class Frame(NamedTuple):
    """One of the frames or pages of a file, or a moment of a video."""

    name: str
    """Its number, from 1, or its seconds in a video: "2", "12.480"."""
    reader: Any = None
    """An images.frame_sources.FrameReader that all frames of the file share. None if this is the only one."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image, not yet opened."""

    name: str
    """The name in its record: the path as given, a URL, "photos.zip!dogs/rex.jpg", or "-"."""
    open: Opener
    """Returns a seekable binary stream at its start, which the caller closes. Any thread may call it.
    Raises ImageNotFoundError, ImageUnreadableError, ImageTooLargeError or NotAFileError."""
    in_memory: bool = False
    """Whether its bytes are already in memory. Callers should not collect many such sources."""
    path: str | None = None
    """Path of the file that `open` opens, if it is a whole file on disk that other processes can open too."""
    frame: Frame | None = None
    """The frame that is meant. None means the first that is not blank."""


def read_all(stream: IO[bytes], name: str) -> bytes:
    """Reads a stream to its end.

    Raises:
        ImageUnreadableError: reading failed.
        ImageTooLargeError: there are more than MAX_BYTES.
    """
    try:
        return join_chunks(iter(partial(stream.read, CHUNK_BYTES), b""), name)
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {name!r}: {describe_error(error)}") from error


def join_chunks(chunks: Iterable[bytes], name: str) -> bytes:
    """Joins the chunks. Raises ImageTooLargeError as soon as there are more than MAX_BYTES."""
    content = BytesIO()
    for chunk in chunks:
        content.write(chunk)
        check_size(content.tell(), name)
    return content.getvalue()


def check_size(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageTooLargeError(f"{name!r} is larger than {MAX_BYTES // 2**20} MiB")


def raise_error(error: type[ImageError], message: str) -> NoReturn:
    raise error(message)


def has_wildcard(name: str) -> bool:
    """Whether a name can be a glob."""
    return not set(name).isdisjoint("*?[") and "\0" not in name


def file_suffix(name: str) -> str:
    """Returns the suffix of a name, in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name inside an archive is not a path here
