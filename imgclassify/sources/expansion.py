"""Expands names into sources: paths, URLs, stdin, and lists of names."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from itertools import chain, islice
from typing import BinaryIO
from urllib.parse import unquote

from imgclassify.errors import ImageUnreadableError
from imgclassify.http.addresses import public_url
from imgclassify.sources.path_expansion import expand_path, stands_for_many
from imgclassify.sources.selection import Selection
from imgclassify.sources.source import CHUNK_BYTES, Frame, Notice, Source, raise_error, read_all

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection to a server."""
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server after which a download fails."""

_FILE = "file://"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
"""The beginning of an address. A single letter would be a drive of Windows."""
_URL_FRAME = re.compile(r"#(\d+(?:\.\d+)?)$")
"""The frame that a URL's fragment names. It is not sent to the server."""
_SHOWN = 80
"""The number of characters of an address that an error shows. A data: URL may have millions."""


def expand(
    names: Iterable[str],
    *,
    notice: Notice = lambda _message: None,
    stdin: BinaryIO | None = None,
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT),
    from_file: bool = False,
    selection: Selection | None = None,
    offline: bool = False,
) -> Iterator[Source]:
    """Yields the sources that `names` stand for, in order. Each is found only when it is requested.

    Args:
        names: paths, folders, globs, http(s) and file URLs, archives, members of archives, or "-".
        notice: called with a message for the user that no source can carry, such as an empty folder.
        stdin: the stream that "-" reads, once. The default is standard input.
        timeout: seconds to connect to a server, and seconds between two of its packets.
        from_file: whether the names come from a list. Then a name that does not exist is not expanded as a
            glob: it yields a source that fails to open. A pipe in a list, which might never be written to, also
            fails.
        selection: which files to take from folders, globs and archives. It also counts the files left out.
        offline: whether to open no socket. URLs then fail to open.
    """
    selection = selection or Selection()
    read_stdin = cache(partial(_read_stdin, stdin))
    stdin_named = False
    for name in names:
        if name == "-":
            read = partial(raise_error, ImageUnreadableError, "standard input was already read; it holds one image")
            yield Source(name, partial(_open_stdin, read if stdin_named else read_stdin))
            stdin_named = True
        elif is_url(name):
            shown = public_url(name)
            frame = _URL_FRAME.search(name)
            yield Source(
                shown,
                partial(_open_url, name, shown, None if offline else timeout),
                frame=Frame(frame[1]) if frame else None,
            )
        elif _is_file_url(name):
            yield from _expand_file_url(name, notice, selection)
        elif _SCHEME.match(name) and not os.path.lexists(name):
            yield _unreadable_address(name, "only http and https URLs are fetched; give the image as a file")
        else:
            yield from expand_path(name, notice, selection, from_file=from_file)


def is_url(name: str) -> bool:
    """Whether the name is that of an image on a server."""
    return name.lower().startswith(("http://", "https://"))


def local_path(name: str) -> str:
    """Returns the path that a file: URL names, and any other name as it is. So is a URL of another machine."""
    if not _is_file_url(name):
        return name
    host, _, path = name[len(_FILE) :].partition("/")
    if host.lower() not in ("", "localhost"):
        return name
    path = unquote(path, errors="surrogateescape")
    return path if os.name == "nt" else f"/{path}"


def _is_file_url(name: str) -> bool:
    return name.lower().startswith(_FILE)


def _expand_file_url(url: str, notice: Notice, selection: Selection) -> Iterator[Source]:
    """Yields the sources of the path. The file itself has the name that was given."""
    path = local_path(url)
    if path == url:
        yield _unreadable_address(url, "it does not name a file on this machine; write file:///folder/file")
        return
    for source in expand_path(path, notice, selection, from_file=True):
        yield replace(source, name=url) if source.name == path else source


def _unreadable_address(url: str, reason: str) -> Source:
    shown = public_url(url)
    return Source(shown, partial(raise_error, ImageUnreadableError, f"cannot fetch {shown[:_SHOWN]}: {reason}"))


def single_source(name: str, *, offline: bool = False) -> Source:
    """Returns the source of the one image that `name` stands for.

    It fails to open if `name` does not stand for one image, for example a folder, or an archive with several.
    """
    if os.path.isdir(name):  # noqa: PTH112 - the name stays as it was given
        return Source(name, partial(raise_error, ImageUnreadableError, f"{name!r} is a folder, not an image"))
    found = list(islice(expand_listed(name, offline=offline), 2))
    if len(found) == 1:
        return found[0]
    what = "several images" if found else "no image"
    return Source(name, partial(raise_error, ImageUnreadableError, f"{name!r} contains {what}"))


def expand_listed(name: str, *, notice: Notice = lambda _message: None, offline: bool = False) -> Iterator[Source]:
    """Yields the sources that one name in a list of a program stands for. The arguments are those of `expand`.

    A name that does not exist is not expanded as a glob. A name that exists was given on purpose, so a pipe is
    read.
    """
    return expand([name], notice=notice, from_file=not os.path.lexists(name), offline=offline)


def is_collection(name: str) -> bool:
    """Whether a name stands for any number of images: it is a folder, an archive or a glob."""
    path = local_path(name)
    is_address = _SCHEME.match(path) and not os.path.lexists(path)
    return not is_address and stands_for_many(path)


def read_names(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """Yields the names in a list, as they arrive. They are NUL-separated if `null`, else one per line.

    Only the end of each line (LF or CR LF) and a byte order mark before the first line are removed. Empty
    entries are skipped. Bytes that are not text are kept as `os.fsdecode` represents them. Lines may be UTF-16.
    """
    if null:
        return (os.fsdecode(entry) for entry in _split_null(stream) if entry)
    return filter(None, _split_lines(stream))


def _split_lines(stream: BinaryIO) -> Iterator[str]:
    first = stream.readline()
    lines = chain([first], stream)
    encoding = _wide_encoding(first)
    if encoding:
        yield from _split_wide_lines(lines, encoding)
        return
    for line in chain([first.removeprefix(codecs.BOM_UTF8)], stream):
        yield os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line)


def _wide_encoding(line: bytes) -> str | None:
    """Returns the encoding of a list if it is UTF-16, as PowerShell writes it.

    Without a byte order mark, the first line must be ASCII. Each of its characters then has a zero byte, which no
    name of a file can have.
    """
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(line) > 1 and not line[1::2].strip(b"\0"):
        return "utf-16-le"
    return "utf-16-be" if len(line) > 1 and not line[::2].strip(b"\0") else None


def _split_wide_lines(chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    rest = ""
    for text in codecs.iterdecode(chunks, encoding, errors="replace"):
        *lines, rest = (rest + text).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
    yield rest


def _split_null(stream: BinaryIO) -> Iterator[bytes]:
    # read1 returns what a pipe already holds; read would wait for a full chunk.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(CHUNK_BYTES):
        *entries, rest = (rest + chunk).split(b"\0")
        yield from entries
    yield rest


def _open_url(url: str, shown: str, timeout: tuple[float, float] | None) -> BinaryIO:
    if timeout is None:
        raise ImageUnreadableError(f"cannot fetch {shown}: --offline forbids it")
    from imgclassify.sources.urls import open_url

    return open_url(url, timeout)


def _open_stdin(read: Callable[[], bytes]) -> BinaryIO:
    return BytesIO(read())


def _read_stdin(stdin: BinaryIO | None) -> bytes:
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ImageUnreadableError("standard input is closed")
    return read_all(stream, "-")
