"""Where results go: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imgclassify.errors import UsageError


@contextmanager
def destination(path: Path | None) -> Iterator[TextIO]:
    """stdout for None. A file is written beside its place and moved there at the end, whatever ended the run: its
    results are then fewer but whole. A killed run, or a disk that is full, leaves an earlier file as it was.

    Raises:
        UsageError: the file cannot be written, or stdout is closed.
    """
    if path is None or str(path) == "-":
        if sys.stdout is None:
            raise UsageError("stdout is closed", hint="name a file with --output")
        yield sys.stdout
        return
    with _told(path):
        # What a link points to is replaced, and not the link.
        target = path.resolve()
        former = target.stat() if target.exists() else None
    if former is not None and not stat.S_ISREG(former.st_mode):
        # A device or a pipe cannot be replaced.
        with _told(path):
            stream = _File(target)
        with stream:
            yield stream
        return
    draft = target.with_name(f".imgclassify-{os.getpid()}.partial")
    with _told(path):
        stream = _File(draft)
    try:
        yield stream
    finally:
        stream.finish(target, former)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in it; RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot write {str(path)!r}: {reason}", hint="choose another place with --output"
        ) from error


class _File(io.TextIOWrapper):
    """A file whose own faults are told as such, apart from those of whoever writes to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False
        super().__init__(path.open("wb"), encoding="utf-8", errors="surrogateescape", newline="")

    def write(self, text: str) -> int:
        with self._watched():
            return super().write(text)

    def flush(self) -> None:
        with self._watched():
            super().flush()

    def finish(self, target: Path, former: os.stat_result | None) -> None:
        """Moves the file to its place, with the former one's mode; removes it if it could not be written whole."""
        try:
            with self._watched():
                super().flush()
                os.fsync(self.fileno())
                if former is not None:
                    self._path.chmod(stat.S_IMODE(former.st_mode))
                self.close()
                self._path.replace(target)
        finally:
            if self._failed:
                self._discard()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            with _told(self._path):
                yield
        except UsageError:
            self._failed = True
            raise

    def _discard(self) -> None:
        # Closing flushes once more, and would fail once more.
        try:
            self.close()
        except (OSError, UsageError):
            pass
        finally:
            self._path.unlink(missing_ok=True)
