"""The members of a .tar archive, plain or compressed. Each is read when the archive is read past it."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO, Self

from imgclassify.errors import ImageError, ImageNotFoundError, ImageUnreadableError, describe_error
from imgclassify.sources.archive_errors import ZSTANDARD, archive_errors
from imgclassify.sources.source import (
    CHUNK_BYTES,
    Opener,
    Source,
    check_size,
    raise_error,
    read_all,
)

_MAX_HEADER = 64 * 1024
"""Limit in bytes on the headers of one member, which tarfile holds whole: long names, extended attributes, a
map of holes."""
_MAX_WINDOW = 128 * 1024 * 1024
"""Limit in bytes on the memory that an .xz needs for its back references: twice as much as `xz -9` needs.
Zstandard has the same limit by default. gzip and bzip2 have windows below 1 MiB."""


def tar_members(path: str, accepts: Callable[[str], bool]) -> Iterator[Source]:
    """Yields a source for each file or link in the archive whose name `accepts` takes."""
    with _open_tar(path) as archive:
        for info in _iter_members(archive):
            member = info.name.removeprefix("./")
            name = f"{path}!{member}"
            if info.isreg() and accepts(member):
                yield Source(name, _read_member(archive, info, name), in_memory=True)
            elif (info.islnk() or info.issym()) and accepts(member):
                yield Source(name, partial(_open_link, path, info, name))
        # The checksum of a compressed file follows the end of the archive. Only reading that far checks it.
        archive.fileobj.read(CHUNK_BYTES)


def tar_names(path: str) -> Iterator[str]:
    """Yields the name of each entry in the archive. That of a folder ends in a slash."""
    with _open_tar(path) as archive:
        for info in _iter_members(archive):
            yield f"{info.name}/" if info.isdir() else info.name


@contextmanager
def _open_tar(path: str) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:  # noqa: PTH123
        head = file.read(16)
    unpack = next((unpack for magic, unpack in _COMPRESSIONS if magic.match(head)), _open_plain)
    with (
        unpack(path) as stream,
        tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictTarInfo, encoding="utf-8") as archive,
    ):
        yield archive


def _open_plain(path: str) -> Any:
    return open(path, "rb")  # noqa: PTH123


def _open_xz(path: str) -> Any:
    return io.BufferedReader(_Xz(path), CHUNK_BYTES)


def _open_zstandard(path: str) -> Any:
    return importlib.import_module(ZSTANDARD).open(path)


class _Xz(io.RawIOBase):
    """A replacement for lzma.LZMAFile that limits the window, and seeks only forward."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb")  # noqa: PTH123, SIM115 - closed below
        self._decoder = lzma.LZMADecompressor(memlimit=_MAX_WINDOW)
        self._position = 0

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise io.UnsupportedOperation("seek")
        while offset > self._position and self.read(min(CHUNK_BYTES, offset - self._position)):
            pass
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            packed = b""
            if self._decoder.eof:  # several streams may follow one another, with zeros between them
                packed = (self._decoder.unused_data or self._file.read(CHUNK_BYTES)).lstrip(b"\0")
                if not packed:
                    return 0
                self._decoder = lzma.LZMADecompressor(memlimit=_MAX_WINDOW)
            elif self._decoder.needs_input and not (packed := self._file.read(CHUNK_BYTES)):
                raise EOFError("the compressed data end too early")
            content = self._decoder.decompress(packed, len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


_COMPRESSIONS: tuple[tuple[re.Pattern[bytes], Callable[[str], Any]], ...] = (
    (re.compile(rb"\x1f\x8b"), gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), _open_xz),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _open_zstandard),
)
"""The first bytes of each kind of compressed file, and the function that opens it. The name is not used."""


class _StrictTarInfo(tarfile.TarInfo):
    """Rejects what tarfile accepts: headers that are damaged, cut short or too large, and negative sizes.

    tarfile takes a damaged header, or a file cut short, for the end of the archive. It accepts headers of any
    size. After a negative size, older Pythons go back and read the same member forever.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        stream = archive.fileobj
        archive.fileobj = _Headers(stream)  # type: ignore[assignment]
        try:
            info = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the two empty blocks that end an archive
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut short ({error})") from error
        finally:
            archive.fileobj = stream
        if info.size < 0:
            raise tarfile.ReadError("a member's size is negative")
        return info


class _Headers:
    """The stream of an archive while one member's headers are read. Limits their size; tarfile does not."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = _MAX_HEADER
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise tarfile.ReadError(f"a member's headers are larger than {_MAX_HEADER // 1024} KiB")
        content: bytes = self._stream.read(size)
        # In Pythons before 3.11.10 and 3.12.6, a run of digits takes time quadratic in its length.
        if re.search(rb"\d{1000}", content):
            raise tarfile.ReadError("a member's headers contain a number with a thousand digits or more")
        return content


def _iter_members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while info := archive.next():
        archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every member it has read
        if sum(map(len, archive.pax_headers.values())) > _MAX_HEADER:  # global headers accumulate
            raise tarfile.ReadError(f"its global headers are larger than {_MAX_HEADER // 1024} KiB")
        yield info


def _open_link(path: str, link: tarfile.TarInfo, name: str) -> BinaryIO:
    """Opens the target of a link. Reads the archive again: links are rare, and members are not kept."""
    within = "" if link.islnk() else posixpath.dirname(link.name)
    target = posixpath.normpath(posixpath.join(within, link.linkname))
    try:
        with _open_tar(path) as archive:
            for info in _iter_members(archive):
                if info.isreg() and posixpath.normpath(info.name) == target:
                    return _read_member(archive, info, name)()
    except archive_errors() as error:
        raise ImageUnreadableError(f"cannot read {name!r}: {describe_error(error)}") from error
    raise ImageNotFoundError(f"{name!r} links to {link.linkname!r}, which is not a file in the archive")


def _read_member(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Opener:
    """Reads a member at once. A compressed tar is a stream, which has passed it by the time it is opened."""
    try:
        check_size(info.size, name)
        stream = archive.extractfile(info)
        assert stream is not None  # only folders and devices have no stream
        return partial(BytesIO, read_all(stream, name))
    except ImageError as error:
        return partial(raise_error, type(error), str(error))
    except archive_errors() as error:
        return partial(raise_error, ImageUnreadableError, f"cannot read {name!r}: {describe_error(error)}")
