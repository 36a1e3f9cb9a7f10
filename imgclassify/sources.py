"""What the user named (paths, folders, globs, URLs, archives, stdin) as an ordered, lazy stream of sources.

Nothing is decoded here, and nothing is written to disk.
"""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH112, PTH113, PTH116, PTH118, PTH122, PTH123, PTH206, PTH207

from __future__ import annotations

import codecs
import glob
import lzma
import os
import posixpath
import stat
import struct
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, BinaryIO, NoReturn, Self

from imgclassify.errors import (
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
)

if TYPE_CHECKING:
    import requests

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

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

MAX_BYTES = 256 * 1024 * 1024
"""Limit on what is held whole in memory: a download, an archive's member, standard input or a pipe."""

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server before a download is given up."""
MAX_REDIRECTS = 5
SLOW_AFTER, SLOW_RATE = 30.0, 4096
"""A server that after these seconds has sent fewer bytes a second is given up, since all behind it waits."""

_CHUNK_BYTES = 1024 * 1024
_MAX_CONNECTIONS = 64

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


def _no_notice(_message: str) -> None:
    pass


def expand(
    names: Iterable[str],
    *,
    notice: Notice = _no_notice,
    stdin: BinaryIO | None = None,
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
    globs: bool = True,
    offline: bool = False,
) -> Iterator[Source]:
    """The sources that `names` stand for, in order, found as they are asked for.

    Args:
        names: paths, folders, globs, http(s) URLs, archives, members of archives, or "-".
        notice: told what the user may want to know and no source can carry, such as an empty folder.
        stdin: what "-" reads, once; standard input unless given.
        timeout: seconds to connect to a server, and between two of its packets.
        globs: whether * ? and [ in a name that does not exist stand for others. In a list of files they do not:
            there each name has its record.
        offline: never open a socket; URLs fail to open.
    """
    read_stdin = cache(partial(_read_stdin, stdin))
    stdin_named = False
    for name in names:
        if name == "-":
            read = partial(_fail, ImageUnreadableError, "standard input was read before, and holds one image")
            yield Source(name, partial(_open_stdin, read if stdin_named else read_stdin))
            stdin_named = True
        elif name.lower().startswith(("http://", "https://")):
            yield Source(name, partial(_open_url, name, None if offline else timeout))
        else:
            yield from _expand_path(name, notice, globs=globs)


def only(name: str, *, offline: bool = False) -> Source:
    """The one picture of that name. What is none, such as a folder or an archive of several, fails to open."""
    if os.path.isdir(name):
        return Source(name, partial(_fail, ImageUnreadableError, f"{name!r} is a folder, and not one picture"))
    found = list(islice(expand([name], globs=False, offline=offline), 2))
    if len(found) == 1:
        return found[0]
    what = "several pictures" if found else "no picture"
    return Source(name, partial(_fail, ImageUnreadableError, f"{name!r} holds {what}"))


def read_names(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """The names that a list holds, one per line or NUL-separated, as they arrive.

    Only the line's end (LF or CR LF), and a byte order mark before the first, is removed; empty entries are
    skipped. Bytes that are not text survive as `os.fsdecode` keeps them.
    """
    entries = _split_null(stream) if null else _split_lines(stream)
    return (os.fsdecode(entry) for entry in entries if entry)


def _split_lines(stream: BinaryIO) -> Iterator[bytes]:
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line


def _split_null(stream: BinaryIO) -> Iterator[bytes]:
    # read1 hands over what a pipe already holds; read would wait for a full chunk.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(_CHUNK_BYTES):
        *entries, rest = (rest + chunk).split(b"\0")
        yield from entries
    yield rest


# Paths ------------------------------------------------------------------------------------------------------


def _expand_path(name: str, notice: Notice, *, globs: bool = True) -> Iterator[Source]:
    if os.path.isdir(name):
        return _noticing_none(_files(_walk(name, notice)), name, notice)
    if _is_archive(name):
        return _noticing_none(_members(name, _is_visible_image), name, notice)
    if os.path.lexists(name):
        return _files([name])
    if split := _split_member(name):
        return _one_member(name, *split)
    if globs and "\0" not in name and not set(name).isdisjoint("*?["):
        return _glob(name, notice)
    return _files([name])


def _files(paths: Iterable[str]) -> Iterator[Source]:
    return (Source(path, partial(_open_file, path)) for path in paths)


def _noticing_none(sources: Iterator[Source], name: str, notice: Notice) -> Iterator[Source]:
    source = None
    for source in sources:
        yield source
    if source is None:
        notice(f"no image in {name!r}")


def _glob(pattern: str, notice: Notice) -> Iterator[Source]:
    # Sorted by path components, as a folder is walked: what lies in a folder directly follows the folder.
    matches = sorted(set(_matches(pattern)), key=lambda path: path.split(os.sep))
    if not matches:
        notice(f"no file matches {pattern!r}")
    walked = None
    for match in matches:
        # "photos/**" matches the folders and their files both; a file is yielded once.
        if walked is None or not match.startswith(walked):
            walked = os.path.join(match, "") if os.path.isdir(match) else None
            yield from _expand_path(match, notice)


def _matches(pattern: str) -> Iterator[str]:
    """glob.iglob, but that ** does not follow symbolic links to folders, which may lead back."""
    parts = pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    before, after = os.sep.join(parts[:at]), os.sep.join(parts[at + 1 :]) or "*"
    for top in glob.glob(before) if before else [os.sep * (at > 0)]:
        for folder, below, _ in os.walk(top or os.curdir):
            below[:] = [name for name in below if not name.startswith(".")]
            inside = folder if top else folder.removeprefix(os.curdir).removeprefix(os.sep)
            yield from _matches(os.path.join(glob.escape(inside), after))


def _walk(top: str, notice: Notice) -> Iterator[str]:
    """The images below `top`, depth first, each folder sorted; holds the names of one branch's folders."""
    levels = [(_identity(top), _list_folder(top, notice))]
    while levels:
        path, is_folder = next(levels[-1][1], (None, False))
        if path is None:
            levels.pop()
        elif not is_folder:
            yield path
        elif (identity := _identity(path)) not in [ancestor for ancestor, _ in levels]:
            levels.append((identity, _list_folder(path, notice)))


def _identity(folder: str) -> tuple[int, int] | None:
    """What a folder is recognised by when a symbolic link leads back to it; None when it cannot be known."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _list_folder(folder: str, notice: Notice) -> Iterator[tuple[str, bool]]:
    """Paths of the visible subfolders and images in `folder`, sorted, each with whether it is a folder."""
    # Names alone are kept: a million directory entries would weigh three times as much.
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.add(entry.name)
                    names.append(entry.name)
                elif _suffix(entry.name) in IMAGE_SUFFIXES:
                    if _is_special(entry):
                        notice(f"skipped, not a regular file: {entry.path!r}")
                    else:
                        names.append(entry.name)
    except OSError as error:
        notice(f"cannot read folder {folder!r}: {_reason(error)}")
    names.sort()
    return ((os.path.join(folder, name), name in folders) for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that leads to itself, or where one may not look
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, socket or device. What cannot be examined is not: opening it will say why."""
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _open_file(path: str) -> BinaryIO:
    try:
        stream = open(path, "rb")  # noqa: SIM115  (the caller's to close)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with NUL in it
        raise ImageNotFoundError(f"no such file: {path!r}") from error
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {path!r}: {_reason(error)}") from error
    mode = os.fstat(stream.fileno()).st_mode
    if stat.S_ISREG(mode):
        return stream
    with stream:
        # A shell's `<(curl …)` is a pipe, and decoders seek.
        if stat.S_ISFIFO(mode):
            return BytesIO(_read_stream(stream, path))
    raise ImageUnreadableError(f"neither a file nor a pipe: {path!r}")


# Standard input and URLs ------------------------------------------------------------------------------------


def _open_stdin(read: Callable[[], bytes]) -> BinaryIO:
    return BytesIO(read())


def _read_stdin(stdin: BinaryIO | None) -> bytes:
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ImageUnreadableError("standard input is closed")
    return _read_stream(stream, "-")


def _open_url(url: str, timeout: tuple[float, float] | None) -> BinaryIO:
    if timeout is None:
        raise ImageUnreadableError(f"cannot fetch {url}: --offline forbids it")
    try:
        with _session().get(url, stream=True, timeout=timeout) as response:
            if response.status_code != 200:
                answer = f"{response.status_code} {response.reason or ''}".rstrip()
                raise ImageUnreadableError(f"{url} answered {answer}")
            return BytesIO(_gather(_without_drips(response, url), url))
    except (OSError, ValueError) as error:  # ValueError: over some malformed host names
        raise ImageUnreadableError(f"cannot fetch {url}: {_reason(_root_cause(error))}") from error


def _without_drips(response: requests.Response, url: str) -> Iterator[bytes]:
    """The body as it arrives, given up when it comes too slowly: each packet alone would be in time."""
    from urllib3.exceptions import HTTPError

    started = time.monotonic()
    received = 0
    try:
        # read1 hands over what has arrived; iter_content would wait for a full chunk.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            received += len(chunk)
            yield chunk
            seconds = time.monotonic() - started
            if seconds > SLOW_AFTER and received < seconds * SLOW_RATE:
                raise ImageUnreadableError(f"cannot fetch {url}: only {received} bytes in {seconds:.0f} seconds")
    except HTTPError as error:
        raise OSError(_reason(_root_cause(error))) from error


@cache
def _session() -> requests.Session:
    """One pool of connections for all threads."""
    import requests

    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    session.headers["User-Agent"] = "imgclassify"  # some hosts refuse a library's own
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_MAX_CONNECTIONS))
    return session


def _root_cause(error: BaseException) -> BaseException:
    """The innermost error: requests wraps "Connection refused" in several layers of its own."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


# Archives ---------------------------------------------------------------------------------------------------


def _is_archive(path: str) -> bool:
    return path.lower().endswith(ARCHIVE_SUFFIXES) and os.path.isfile(path)


def _split_member(name: str) -> tuple[str, str] | None:
    """("photos.zip", "dogs/rex.jpg") for "photos.zip!dogs/rex.jpg" where photos.zip is an archive."""
    for position, character in enumerate(name):
        if character == "!" and _is_archive(name[:position]):
            return name[:position], name[position + 1 :]
    return None


def _members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    """The wanted members of an archive, in its own order; a last source that fails where it is damaged."""
    read = _zip_members if path.lower().endswith(".zip") else _tar_members
    try:
        yield from read(path, wanted)
    except _DAMAGE as error:
        message = f"cannot read archive {path!r}: {_reason(error)}"
        yield Source(path, partial(_fail, ImageUnreadableError, message))


def _one_member(name: str, archive: str, member: str) -> Iterator[Source]:
    found = next(_members(archive, lambda candidate: candidate == member), None)
    missing = partial(_fail, ImageNotFoundError, f"no {member!r} in {archive!r}")
    yield Source(name, found.open if found else missing)


def _is_visible_image(member: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in member.split("/"))
    return not hidden and _suffix(member) in IMAGE_SUFFIXES


def _zip_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    archive = zipfile.ZipFile(path)  # closed when the last of its sources is gone
    lock = threading.Lock()
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
        if not info.filename.endswith("/") and kind in (0, stat.S_IFREG) and wanted(info.filename):
            name = f"{path}!{info.filename}"
            yield Source(name, partial(_open_zip_member, archive, info, lock, name))


def _open_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock, name: str) -> BinaryIO:
    _check_bytes(info.file_size, name)
    try:
        # ZipFile counts its open members without a lock of its own.
        with lock, archive.open(info) as stream:
            return BytesIO(_read_stream(stream, name))
    except _DAMAGE as error:
        reason = "it is encrypted" if info.flag_bits & 1 else _reason(error)
        raise ImageUnreadableError(f"cannot read {name!r}: {reason}") from error


def _tar_members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    if path.lower().endswith(".zst") and not hasattr(tarfile.TarFile, "zstopen"):
        raise tarfile.CompressionError("reading .tar.zst needs Python 3.14 or newer")
    with tarfile.open(path, "r:*", tarinfo=_StrictTarInfo) as archive:
        for info in _passing(archive):
            member = info.name.removeprefix("./")
            name = f"{path}!{member}"
            if info.isreg() and wanted(member):
                yield Source(name, _read_tar_member(archive, info, name))
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
        raise ImageUnreadableError(f"cannot read {name!r}: {_reason(error)}") from error
    raise ImageNotFoundError(f"{name!r} links to {link.linkname!r}, which is no file in the archive")


def _read_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> Opener:
    """Reads at once: a compressed tar is a stream, and has passed the member by the time it is opened."""
    try:
        _check_bytes(info.size, name)
        stream = archive.extractfile(info)
        assert stream is not None  # only directories and devices have none
        return partial(BytesIO, _read_stream(stream, name))
    except ImageError as error:
        return partial(_fail, type(error), str(error))
    except _DAMAGE as error:
        return partial(_fail, ImageUnreadableError, f"cannot read {name!r}: {_reason(error)}")


# Shared -----------------------------------------------------------------------------------------------------


def _read_stream(stream: IO[bytes], name: str) -> bytes:
    try:
        return _gather(iter(partial(stream.read, _CHUNK_BYTES), b""), name)
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {name!r}: {_reason(error)}") from error


def _gather(chunks: Iterable[bytes], name: str) -> bytes:
    content = BytesIO()
    for chunk in chunks:
        content.write(chunk)
        _check_bytes(content.tell(), name)
    return content.getvalue()


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ImageTooLargeError(f"{name!r} is larger than {MAX_BYTES // 2**20} MiB")


def _reason(error: BaseException) -> str:
    """The error in a few words: the system's where it has some, else the first line of its own."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(words).splitlines()[0].rstrip(":")


def _fail(error: type[ImageError], message: str) -> NoReturn:
    raise error(message)
