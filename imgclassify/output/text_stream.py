"""Opens the destination of streamed text: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imgclassify.errors import UsageError
from imgclassify.files import atomic_write, is_replaceable

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}


@contextmanager
def open_text(path: Path | None) -> Iterator[TextIO]:
    """Opens stdout or a file, and yields the stream.

    A file appears under its name at the end of the block, even if the block raises. It then holds fewer
    records, but whole ones. If the process is killed or the disk is full, an earlier file stays as it was.

    Args:
        path: None and "-" mean stdout. A device or a pipe is written to directly.

    Raises:
        UsageError: the file cannot be written, or stdout is closed.
    """
    if path is None or str(path) == "-":
        if sys.stdout is None:
            raise UsageError("stdout is closed", hint="name a file with --output")
        yield sys.stdout
        return
    with report_io_errors(path):
        target = path.resolve()  # a link is kept, and the file that it points to is replaced
        replaceable = is_replaceable(target)
    if not replaceable:
        with report_io_errors(path):
            stream = _WatchedFile(target, path)
        with stream:
            yield stream
        return
    failure: BaseException | None = None
    with report_io_errors(path), atomic_write(target) as draft, _WatchedFile(draft, path) as stream:
        try:
            yield stream
        except BaseException as error:
            if stream.failed:
                raise
            # The records so far are whole: let the file appear before the error is raised again.
            failure = error
    if failure is not None:
        raise failure


@contextmanager
def report_io_errors(path: Path, verb: str = "write", option: str = "--output") -> Iterator[None]:
    """Turns the system's errors in the block into a UsageError about `path`.

    Args:
        verb: what could not be done with the file, for the message.
        option: the command-line option that named the file, for the hint.

    Raises:
        UsageError: the system reported an error.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in it; RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        room = "free some space there, or " if getattr(error, "errno", None) in _DISK_FULL else ""
        raise UsageError(
            f"cannot {verb} {str(path)!r}: {reason}", hint=f"{room}choose another path with {option}"
        ) from error


class _WatchedFile(io.TextIOWrapper):
    """A text file that records in `failed` whether writing to it failed. Errors of its user do not count."""

    def __init__(self, path: Path, name: Path) -> None:
        """
        Args:
            path: the file that is written.
            name: the file's name in error messages.
        """
        self._name = name
        self.failed = False
        super().__init__(path.open("wb"), encoding="utf-8", errors="surrogateescape", newline="")

    def write(self, text: str) -> int:
        with self._watch():
            return super().write(text)

    def flush(self) -> None:
        with self._watch():
            super().flush()

    @contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            with report_io_errors(self._name):
                yield
        except UsageError:
            self.failed = True
            raise
