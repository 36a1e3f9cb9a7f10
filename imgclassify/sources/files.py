"""One file on disk, or the pipe that a shell names like one."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH113, PTH116

from __future__ import annotations

import os
import stat
from functools import partial
from io import BytesIO
from typing import BinaryIO

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError, NotAFileError, describe_error
from imgclassify.sources.source import Source, read_all

_DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/")
"""Under these the system names what this process has open; to another process they mean something else."""

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)


def file_source(path: str) -> Source:
    """The regular file of that name. Opening it never waits for anyone, whatever lies there by then."""
    own = path.startswith(_DESCRIPTORS)
    return Source(path, partial(_open_file, path), path=None if own else path)


def file_or_pipe_source(path: str) -> Source:
    """The file or pipe of that name. A pipe is waited for, since it was meant."""
    return file_source(path) if os.path.isfile(path) else Source(path, partial(_open_file, path, allow_pipes=True))


def _open_file(path: str, *, allow_pipes: bool = False) -> BinaryIO:
    try:
        # Before as well as after: opening a device may set something off, and waiting writers see a pipe opened.
        _check_kind(os.stat(path).st_mode, path, allow_pipes=allow_pipes)
        stream = open(path, "rb", opener=None if allow_pipes else _open_without_waiting)  # noqa: SIM115  (the caller's to close)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with NUL in it
        raise ImageNotFoundError(f"no such file: {path!r}") from error
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {path!r}: {describe_error(error)}") from error
    mode = os.fstat(stream.fileno()).st_mode
    if stat.S_ISREG(mode):
        return stream
    with stream:
        _check_kind(mode, path, allow_pipes=allow_pipes)
        # A shell's `<(curl …)` is a pipe, and decoders seek.
        return BytesIO(read_all(stream, path))


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens without waiting for a pipe's writer, where a pipe has taken a file's place."""
    return os.open(path, flags | _NO_WAIT)


def _check_kind(mode: int, path: str, *, allow_pipes: bool) -> None:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (allow_pipes and stat.S_ISFIFO(mode)):
        return  # a folder says itself what it is when it is opened
    kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
    raise NotAFileError(f"a {kind}, and no file: {path!r}")
