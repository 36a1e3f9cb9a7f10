"""Pictures inside .zip and .tar archives, read member by member; nothing is unpacked to disk."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".

from __future__ import annotations

import lzma
import posixpath
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from typing import BinaryIO, Self

from imgclassify.errors import ImageError, ImageNotFoundError, ImageUnreadableError
from imgclassify.sources.source import (
    IMAGE_SUFFIXES,
    Opener,
    Source,
    check_bytes,
    fail,
    read_whole,
    reason,
    suffix_of,
)

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
"""What zipfile and tarfile raise over archives that are damaged, encrypted, or of an unknown method."""


def members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    """The wanted members of an archive, in its own order; a last source that fails where it is damaged."""
    read = _zip_members if path.lower().endswith(".zip") else _tar_members
    try:
        yield from read(path, wanted)
    except _DAMAGE as error:
        message = f"cannot read archive {path!r}: {reason(error)}"
        yield Source(path, partial(fail, ImageUnreadableError, message))


def one_member(name: str, archive: str, member: str) -> Iterator[Source]:
    found = next(members(archive, lambda candidate: candidate == member), None)
    missing = partial(fail, ImageNotFoundError, f"no {member!r} in {archive!r}")
    yield Source(name, found.open if found else missing)


def is_visible_image(member: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in member.split("/"))
    return not hidden and suffix_of(member) in IMAGE_SUFFIXES


def _zip_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    archive = zipfile.ZipFile(path)  # closed when the last of its sources is gone
    lock = threading.Lock()
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        if not info.filename.endswith("/") and kind in (0, stat.S_IFREG) and wanted(info.filename):
            name = f"{path}!{info.filename}"
            yield Source(name, partial(_open_zip_member, archive, info, lock, name))


def _open_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock, name: str) -> BinaryIO:
    check_bytes(info.file_size, name)
    try:
        # ZipFile counts its open members without a lock of its own.
        with lock, archive.open(info) as stream:
            return BytesIO(read_whole(stream, name))
    except _DAMAGE as error:
        what = "it is encrypted" if info.flag_bits & 1 else reason(error)
        raise ImageUnreadableError(f"cannot read {name!r}: {what}") from error


def _tar_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    if path.lower().endswith(".zst") and not hasattr(tarfile.TarFile, "zstopen"):
        raise tarfile.CompressionError("reading .tar.zst needs Python 3.14 or newer")
    with tarfile.open(path, "r:*", tarinfo=_StrictTarInfo) as archive:
        for info in _passing(archive):
            member = info.name.removeprefix("./")
            name = f"{path}!{member}"
            if info.isreg() and wanted(member):
                yield Source(name, _read_tar_member(archive, info, name), held=True)
            elif (info.islnk() or info.issym()) and wanted(member):
                yield Source(name, partial(_open_tar_link, path, info, name))


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a damaged header, or a file cut short, for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the two empty blocks that end an archive
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged or cut short ({error})") from error


def _passing(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while info := archive.next():
        archive.members = []  # type: ignore[attr-defined]  # else it remembers every member it has passed
        yield info


def _open_tar_link(path: str, link: tarfile.TarInfo, name: str) -> BinaryIO:
    """Links are rare, and their targets not remembered: the archive is read anew."""
    within = "" if link.islnk() else posixpath.dirname(link.name)
    target = posixpath.normpath(posixpath.join(within, link.linkname))
    try:
        with tarfile.open(path, "r:*", tarinfo=_StrictTarInfo) as archive:
            for info in _passing(archive):
                if info.isreg() and posixpath.normpath(info.name) == target:
                    return _read_tar_member(archive, info, name)()
    except (OSError, *_DAMAGE) as error:
        raise ImageUnreadableError(f"cannot read {name!r}: {reason(error)}") from error
    raise ImageNotFoundError(f"{name!r} links to {link.linkname!r}, which is no file in the archive")


def _read_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Opener:
    """Reads at once: a compressed tar is a stream, and has passed the member by the time it is opened."""
    try:
        check_bytes(info.size, name)
        stream = archive.extractfile(info)
        assert stream is not None  # only directories and devices have none
        return partial(BytesIO, read_whole(stream, name))
    except ImageError as error:
        return partial(fail, type(error), str(error))
    except _DAMAGE as error:
        return partial(fail, ImageUnreadableError, f"cannot read {name!r}: {reason(error)}")
