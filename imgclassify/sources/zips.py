"""The members of a .zip archive. Each is read when its source is opened.

The names of members are decoded here, because zipfile decodes them as their flags say. It garbles UTF-8 without the
flag, and refuses the whole archive if one name has the flag and is not UTF-8.
"""

from __future__ import annotations

import bz2
import re
import stat
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from copy import copy
from functools import partial
from io import BytesIO
from typing import IO, BinaryIO
from zlib import crc32

from imgclassify.errors import ImageUnreadableError, describe_error
from imgclassify.sources.archive_errors import archive_errors
from imgclassify.sources.source import Source, check_size, read_all

_LISTING = b"PK\1\2"
"""The signature of an entry of a zip's list of contents."""
_ENTRY = struct.Struct("<4s4xH18xHHH12x")
"""Of such an entry, its signature, flags, and the lengths of the name, the extra fields and the comment."""
_MEMBER = b"PK\3\4"
"""The signature of a member's header."""
_HEADER = struct.Struct("<6sH22s")
"""Of such a header, what precedes the flags, the flags, and the rest."""
_IS_UTF8 = 1 << 11
"""The flag of an entry or a header whose name is UTF-8."""
_UNICODE_PATH = 0x7075
"""The id of the extra field with the name in UTF-8, which Info-ZIP and 7-Zip write."""
_WINDOWS = {0, 10, 14}
"""The values of "version made by" for MS-DOS and Windows."""


def zip_members(path: str, accepts: Callable[[str], bool]) -> Iterator[Source]:
    """Yields a source for each file in the archive whose name `accepts` takes."""
    file = _ArchiveFile(path)
    archive = zipfile.ZipFile(file)
    file.is_listed = True
    lock = threading.Lock()
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if the archive was not made on Unix
        member = _member_name(info)
        if not member.endswith("/") and kind in (0, stat.S_IFREG) and accepts(member):
            name = f"{path}!{member}"
            yield Source(name, partial(_open_member, archive, info, lock, name))


def zip_names(path: str) -> Iterator[str]:
    """Yields the name of each entry in the archive. That of a folder ends in a slash."""
    file = _ArchiveFile(path)
    with closing(file), zipfile.ZipFile(file) as archive:
        yield from map(_member_name, archive.infolist())


class _ArchiveFile:
    """The file of an archive, for zipfile. Removes the flag for UTF-8 from every name.

    So zipfile decodes each name as cp437. That never fails, and encoding the text again gives the bytes of the
    name. The file is closed when the last source of the archive is garbage-collected.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: PTH123, SIM115
        self.seek, self.tell, self.seekable = self._file.seek, self._file.tell, self._file.seekable
        self.is_listed = False

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        if not self.is_listed and content.startswith(_LISTING):
            return _clear_flags(content)
        # The header of a member is read by itself. So might be a member of this size, but it would be no image.
        if len(content) == _HEADER.size and content.startswith(_MEMBER):
            signature, flags, rest = _HEADER.unpack(content)
            return _HEADER.pack(signature, flags & ~_IS_UTF8, rest)
        return content

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        self.close()


def _clear_flags(listing: bytes) -> bytes:
    """Removes the flag for UTF-8 from the entries of a list of contents."""
    cleared = bytearray(listing)
    position = 0
    while position + _ENTRY.size <= len(listing):
        signature, flags, *lengths = _ENTRY.unpack_from(listing, position)
        if signature != _LISTING:
            break
        struct.pack_into("<H", cleared, position + 8, flags & ~_IS_UTF8)
        position += _ENTRY.size + sum(lengths)
    return bytes(cleared)


def _member_name(info: zipfile.ZipInfo) -> str:
    """Returns the name of a member: UTF-8 if it is valid, else cp437.

    In an archive from Windows, backslashes separate folders.
    """
    packed = info.orig_filename.encode("cp437").partition(b"\0")[0]
    is_windows = info.create_system in _WINDOWS
    try:
        name = _unicode_path(info.extra, packed) or packed.decode()
    except UnicodeDecodeError:
        # Other code pages have characters of two bytes, the second of which may be a backslash.
        if is_windows and b"/" not in packed:
            packed = re.sub(rb"(?<![\x80-\xff])\\", b"/", packed)
        return packed.decode("cp437")
    return name.replace("\\", "/") if is_windows else name


def _unicode_path(extra: bytes, packed: bytes) -> str | None:
    """Returns the name in an extra field, if there is one for this name (appnote.txt, 4.6.9)."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(field) > 5 and struct.unpack_from("<BL", field) == (1, crc32(packed)):
            with suppress(UnicodeDecodeError):
                return field[5:].decode()
    return None


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
