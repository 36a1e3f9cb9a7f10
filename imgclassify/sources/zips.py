"""The members of a .zip archive. Each is read when its source is opened."""

from __future__ import annotations

import bz2
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from io import BytesIO
from typing import IO, BinaryIO

from imgclassify.errors import ImageUnreadableError, describe_error
from imgclassify.sources.archive_errors import archive_errors
from imgclassify.sources.source import Source, check_size, read_all


def zip_members(path: str, accepts: Callable[[str], bool]) -> Iterator[Source]:
    """Yields a source for each file in the archive whose name `accepts` takes."""
    archive = zipfile.ZipFile(path)  # closed when the last of its sources is garbage-collected
    lock = threading.Lock()
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was not made on Unix
        if not info.filename.endswith("/") and kind in (0, stat.S_IFREG) and accepts(info.filename):
            name = f"{path}!{info.filename}"
            yield Source(name, partial(_open_member, archive, info, lock, name))


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock, name: str) -> BinaryIO:
    check_size(info.file_size, name)
    try:
        # ZipFile counts its open members without a lock.
        with lock, _open_stream(archive, info) as stream:
            return BytesIO(read_all(stream, name))
    except archive_errors() as error:
        what = "it is encrypted" if info.flag_bits & 1 else describe_error(error)
        raise ImageUnreadableError(f"cannot read {name!r}: {what}") from error


def _open_stream(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Opens a member so that it is decompressed in bounded steps. zipfile does that only for deflate."""
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return archive.open(info)
    if info.compress_type != zipfile.ZIP_BZIP2:
        raise NotImplementedError(f"compression method {info.compress_type} is not supported")
    packed = copy(info)
    packed.compress_type = zipfile.ZIP_STORED
    packed.file_size = info.compress_size
    del packed.CRC  # it is the checksum of the unpacked bytes; bzip2 has its own
    return bz2.open(archive.open(packed))
