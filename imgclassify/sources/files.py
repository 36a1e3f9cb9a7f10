"""The source of one file on disk, or of a pipe that a shell names like a file."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH113, PTH116

from __future__ import annotations

import os
import stat
from functools import partial
from io import BytesIO
from typing import BinaryIO

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError, NotAFileError, describe_error
from imgclassify.sources.source import Source, has_wildcard, read_all

_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/")
"""Paths by which the system names this process's open files. In another process they mean something else."""

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def file_source(path: str) -> Source:
    """Returns the source of a regular file. Opening it never waits, whatever is at the path by then."""
    own = path.startswith(_DESCRIPTORS)
    return Source(path, partial(_open_file, path), path=None if own else path)


def file_or_pipe_source(path: str) -> Source:
    """Returns the source of a file or pipe. Opening a pipe waits for its writer, since the user named it."""
    return file_source(path) if os.path.isfile(path) else Source(path, partial(_open_file, path, allow_pipes=True))


def _open_file(path: str, *, allow_pipes: bool = False) -> BinaryIO:
    try:
        # Checked before opening too: that may have an effect on a device, or release writers that wait for a
        # pipe's reader.
        _check_kind(os.stat(path).st_mode, path, allow_pipes=allow_pipes)
        stream = open(path, "rb", opener=None if allow_pipes else _open_without_waiting)  # noqa: SIM115  (the caller's to close)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with NUL in it
        listed = "; a name in a list is not expanded as a glob" if has_wildcard(path) else ""
        raise ImageNotFoundError(f"no such file: {path!r}{listed}") from error
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {path!r}: {describe_error(error)}") from error
    # Checked again, because something else may have taken the place of the file since.
    mode = os.fstat(stream.fileno()).st_mode
    if stat.S_ISREG(mode):
        return stream
    with stream:
        _check_kind(mode, path, allow_pipes=allow_pipes)
        # A pipe, such as a shell's `<(curl …)`, cannot seek, and decoders seek.
        return BytesIO(read_all(stream, path))


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a file without waiting for a writer if a pipe has taken the place of the file."""
    return os.open(path, flags | _NO_WAIT)


def _check_kind(mode: int, path: str, *, allow_pipes: bool) -> None:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (allow_pipes and stat.S_ISFIFO(mode)):
        return  # opening a folder fails with a clear error of its own
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise NotAFileError(f"a {kind}, not a file: {path!r}")
