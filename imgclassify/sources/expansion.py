"""Expands names into sources: paths, URLs, stdin, and lists of names."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from io import BytesIO
from itertools import islice
from typing import BinaryIO

from imgclassify.errors import ImageUnreadableError
from imgclassify.sources.path_expansion import expand_path, stands_for_many
from imgclassify.sources.selection import Selection
from imgclassify.sources.source import CHUNK_BYTES, Notice, Source, raise_error, read_all

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection to a server."""
READ_TIMEOUT = 60.0
"""Seconds without a byte from the server after which a download fails."""


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
        names: paths, folders, globs, http(s) URLs, archives, members of archives, or "-".
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
            yield Source(name, partial(_open_url, name, None if offline else timeout))
        else:
            yield from expand_path(name, notice, selection, from_file=from_file)


def is_url(name: str) -> bool:
    """Whether the name is that of an image on a server."""
    return name.lower().startswith(("http://", "https://"))


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
    return not is_url(name) and stands_for_many(name)


def read_names(stream: BinaryIO, *, null: bool) -> Iterator[str]:
    """Yields the names in a list, as they arrive. They are NUL-separated if `null`, else one per line.

    Only the end of each line (LF or CR LF) and a byte order mark before the first line are removed. Empty
    entries are skipped. Bytes that are not text are kept as `os.fsdecode` represents them.
    """
    entries = _split_null(stream) if null else _split_lines(stream)
    return (os.fsdecode(entry) for entry in entries if entry)


def _split_lines(stream: BinaryIO) -> Iterator[bytes]:
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        yield line.removesuffix(b"\n").removesuffix(b"\r") if line.endswith(b"\n") else line


def _split_null(stream: BinaryIO) -> Iterator[bytes]:
    # read1 returns what a pipe already holds; read would wait for a full chunk.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(CHUNK_BYTES):
        *entries, rest = (rest + chunk).split(b"\0")
        yield from entries
    yield rest


def _open_url(url: str, timeout: tuple[float, float] | None) -> BinaryIO:
    if timeout is None:
        raise ImageUnreadableError(f"cannot fetch {url}: --offline forbids it")
    from imgclassify.sources.urls import open_url

    return open_url(url, timeout)


def _open_stdin(read: Callable[[], bytes]) -> BinaryIO:
    return BytesIO(read())


def _read_stdin(stdin: BinaryIO | None) -> bytes:
    stream = stdin or getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ImageUnreadableError("standard input is closed")
    return read_all(stream, "-")
