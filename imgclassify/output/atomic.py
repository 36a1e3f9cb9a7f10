"""Where text goes: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imgclassify.errors import UsageError

_LONGEST_NAME = 200
"""Bytes of a file's name that its draft's has, too; file systems allow 255 in all."""
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None)}


@contextmanager
def open_text(path: Path | None) -> Iterator[TextIO]:
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
    with report_io_errors(path):
        # What a link points to is replaced, and not the link.
        target = path.resolve()
        replaceable = is_replaceable(target)
    if not replaceable:
        with report_io_errors(path):
            stream = _File(target)
        with stream:
            yield stream
        return
    draft = target.with_name(f".imgclassify-{os.getpid()}.partial")
    with report_io_errors(path):
        stream = _File(draft)
    try:
        yield stream
    finally:
        stream.finish(target)


def is_replaceable(path: Path) -> bool:
    """Whether another file can stand in its place, or it is not there yet; not so a device, a pipe or a folder."""
    return path.is_file() or not path.exists()


def temp_path(path: Path) -> Path:
    """Where a file is written until it is whole: always the same, so that what a killed process leaves is found."""
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return path.with_name(f".{name}.draft")


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """An empty file to be filled in the block, which then takes the target's place and mode; or none, where the
    block fails."""
    draft = temp_path(target)
    draft.unlink(missing_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    try:
        draft.touch()
        if mode is not None:
            draft.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        yield draft
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        if mode is not None:
            draft.chmod(mode)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def report_io_errors(path: Path, verb: str = "write", option: str = "--output") -> Iterator[None]:
    """
    Raises:
        UsageError: the file could not be written (or read, as the verb says), in place of what says so.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in it; RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or error
        room = "make room there, or " if getattr(error, "errno", None) in _FULL else ""
        raise UsageError(
            f"cannot {verb} {str(path)!r}: {reason}", hint=f"{room}choose another place with {option}"
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

    def finish(self, target: Path) -> None:
        """Moves the file to its place, with the mode of what was there; removes it if it was not written whole."""
        try:
            with self._watched():
                super().flush()
                os.fsync(self.fileno())
                if target.exists():
                    self._path.chmod(stat.S_IMODE(target.stat().st_mode))
                self.close()
                self._path.replace(target)
        finally:
            if self._failed:
                self._discard()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            with report_io_errors(self._path):
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
