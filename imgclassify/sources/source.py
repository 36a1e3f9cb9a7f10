"""A source, what of a folder or an archive counts as one, and the reading that all kinds share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from typing import IO, BinaryIO, NoReturn

from imgclassify.errors import ImageError, ImageTooLargeError, ImageUnreadableError, describe_error

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "HEIC": (".heic", ".heics", ".heif", ".heifs", ".hif"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "netpbm": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
}
IMAGE_SUFFIXES = frozenset(chain.from_iterable(_SUFFIXES.values()))
"""What is taken from a folder or an archive, in lower case. A file named directly may end in anything."""

MAX_BYTES = 256 * 1024 * 1024
"""Limit on what is held whole in memory: a download, an archive's member, standard input or a pipe."""

CHUNK_BYTES = 1024 * 1024

Notice = Callable[[str], None]
Opener = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Source:
    """One image, not yet opened."""

    name: str
    """As the record prints it: the path as given, a URL, "photos.zip!dogs/rex.jpg", or "-"."""
    open: Opener
    """Returns a seekable binary stream at its start, the caller's to close; may be called from any thread.
    Raises ImageNotFoundError, ImageUnreadableError or ImageTooLargeError."""
    in_memory: bool = False
    """Whether its bytes are in memory already, so that not many of its kind should be gathered."""
    path: str | None = None
    """Of the file that `open` opens, where it is one on disk, and not a part of one."""


def read_all(stream: IO[bytes], name: str) -> bytes:
    try:
        return join_chunks(iter(partial(stream.read, CHUNK_BYTES), b""), name)
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {name!r}: {describe_error(error)}") from error


def join_chunks(chunks: Iterable[bytes], name: str) -> bytes:
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


def file_suffix(name: str) -> str:
    """In lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name inside an archive is no path here
