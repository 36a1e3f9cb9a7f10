"""Keeps the records of an unfinished run in a file, NAME.partial, as JSON lines, whatever the output's format.

During a run, whole lines are appended and nothing else changes. So a process that is killed at any moment
leaves at most a torn last line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic

from imgclassify.errors import UsageError
from imgclassify.output.json_lines import from_packed_json, to_packed_json
from imgclassify.output.provenance import SCHEMA, Provenance
from imgclassify.output.records import R, RecordType
from imgclassify.output.text_stream import report_io_errors

SYNC_SECONDS = 5.0
"""Seconds between two calls of fsync while records are added, in case the machine loses power. The journal then
also checks that its file still has its name."""

_CLOSED = -1
"""The value of `_descriptor` when the file is closed."""

_COPY_BYTES = 2**20

_MARKER_KEY = "session"
"""The key of a line that is a ResumeMarker, not a record."""

_FIRST_BYTES = f'{{"schema":"{SCHEMA}"'.encode()
"""The first bytes of every journal."""


@dataclass(frozen=True, slots=True)
class ResumeMarker:
    """A mark among the records: the records after it were added by another process."""

    retries: bool
    """Whether a record after the mark replaces a failed record of the same source before the mark."""


class Journal(Generic[R]):
    """A file with a line of provenance, then records and marks. Only one process at a time can have it open."""

    def __init__(self, path: Path, record_type: RecordType[R]) -> None:
        """Opens or creates the file, and drops a torn last line.

        Raises:
            UsageError: another process has the file open, it cannot be written, or it is not a journal.
        """
        self.path = path
        self.provenance: Provenance | None = None
        """None while the journal is empty."""
        self._record_type = record_type
        with report_io_errors(path):
            self._descriptor = _open_locked(path)
        try:
            with report_io_errors(path):
                self._recover_lines()
        except BaseException:
            self._release()
            raise
        self._synced = time.monotonic()

    def begin(self, provenance: Provenance) -> None:
        """Writes the first line of an empty journal."""
        self._append(provenance.to_dict())
        self.provenance = provenance

    def add(self, entry: R | ResumeMarker) -> None:
        """Appends a record or a mark.

        Raises:
            UsageError: the entry cannot be written. The entries before it stay whole.
        """
        if isinstance(entry, ResumeMarker):
            self._append({_MARKER_KEY: {"retries": entry.retries}})
        else:
            self._append(entry.to_dict())
        if time.monotonic() > self._synced + SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Forces the records to the disk, and checks that the file still has its name.

        Raises:
            UsageError: the disk failed, or the file was moved or removed.
        """
        with report_io_errors(self.path):
            os.fsync(self._descriptor)
            self._synced = time.monotonic()
            if not _is_at(self._descriptor, self.path):
                raise FileNotFoundError(None, "it was moved or removed while it was being written")

    def entries(self) -> Iterator[tuple[int, R | ResumeMarker]]:
        """Yields (position, entry) for everything that was added, in order.

        The position is the offset in bytes of the entry's line. Damaged lines and records of another model are
        left out, so their sources count as without a record.
        """
        with report_io_errors(self.path, "read"), self.path.open("rb") as stream:
            position = len(stream.readline())
            for line in stream:
                entry = self._parse_line(line)
                if isinstance(entry, ResumeMarker) or (
                    entry and self.provenance and self.provenance.describes(entry)
                ):
                    yield position, entry
                position += len(line)

    def copy_lines(self, path: Path) -> None:
        """Writes the lines of all entries to a file. Raises OSError if it cannot be written."""
        with path.open("wb") as copy, self.path.open("rb") as stream:
            stream.readline()  # the provenance
            shutil.copyfileobj(stream, copy, _COPY_BYTES)

    def records_at(self, positions: Iterable[int]) -> Iterator[R]:
        """Yields the records whose lines begin at these positions."""
        with report_io_errors(self.path, "read"), self.path.open("rb") as stream:
            for position in positions:
                stream.seek(position)
                yield self._record_type.from_dict(from_packed_json(stream.readline()))

    def clear(self) -> None:
        """Removes everything from the journal."""
        with report_io_errors(self.path):
            os.ftruncate(self._descriptor, 0)
        self.provenance = None

    def replace_journal(self, other: Journal[R]) -> None:
        """Takes the name of the other journal, and closes that one."""
        with report_io_errors(other.path):
            if sys.platform == "win32":  # Windows cannot rename an open file
                self._release()
                other._release()
            self.path.replace(other.path)
            if sys.platform == "win32":
                self._descriptor = _open_locked(other.path)
        self.path = other.path
        other._release()

    def close(self) -> None:
        """Closes the file so that another process can open it, and deletes it if it is empty."""
        if self._descriptor == _CLOSED:
            return
        if os.fstat(self._descriptor).st_size == 0:
            self.remove()
        else:
            self._release()

    def remove(self) -> None:
        """Closes and deletes the file."""
        if sys.platform == "win32":  # Windows cannot delete an open file
            self._release()
        # Elsewhere the lock is released last, so that no other process begins to use a file that is then
        # deleted.
        with report_io_errors(self.path):
            self.path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._descriptor != _CLOSED:
            os.close(self._descriptor)
            self._descriptor = _CLOSED

    def _append(self, line: dict[str, Any]) -> None:
        content = to_packed_json(line) + b"\n"
        with report_io_errors(self.path):
            written = 0
            try:
                while written < len(content):
                    written += os.write(self._descriptor, content[written:])
            except OSError:  # such as a full disk: remove the part of the line that was written
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise

    def _recover_lines(self) -> None:
        """Reads the first line, and drops the last line if a process was killed while writing it."""
        with self.path.open("rb") as stream:
            first = stream.readline()
            whole = _end_of_last_line(stream)
        # A process may be killed, or the machine lose power, while the first line is written. That leaves the
        # beginning of the line or NUL bytes. Any other file belongs to somebody else and is left alone.
        if whole == 0 and (
            first.startswith(_FIRST_BYTES) or _FIRST_BYTES.startswith(first) or not first.strip(b"\0")
        ):
            os.ftruncate(self._descriptor, 0)
            return
        try:
            self.provenance = Provenance.from_dict(from_packed_json(first), self._record_type)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{str(self.path)!r} is not an unfinished output of imgclassify: {error}",
                hint="move it away, or choose another name with --output",
            ) from error
        os.ftruncate(self._descriptor, whole)

    def _parse_line(self, line: bytes) -> R | ResumeMarker | None:
        """Parses a line. Returns None if the line is damaged."""
        try:
            value = from_packed_json(line)
            if isinstance(value, dict) and isinstance(marker := value.get(_MARKER_KEY), dict):
                return ResumeMarker(retries=marker.get("retries") is True)
            return self._record_type.from_dict(value)
        except (ValueError, RecursionError):
            return None


def _end_of_last_line(stream: BinaryIO) -> int:
    """Returns the offset at which the last whole line ends; 0 if there is none."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 65536)
        stream.seek(begin)
        found = stream.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _open_locked(path: Path) -> int:
    """Opens a file for appending, and locks it. Creates the file if it does not exist.

    Raises:
        UsageError: another process has locked the file.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _lock_descriptor(descriptor, path)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The process that held the lock has finished and removed or replaced the file. Open it again.
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    _FAR = 2**40
    """The offset of the byte that is locked. It is beyond the end of the file, because on Windows a locked byte
    cannot be read by others."""

    def _lock_descriptor(descriptor: int, path: Path) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise _busy_error(path) from error

else:
    import fcntl

    def _lock_descriptor(descriptor: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy_error(path) from error
        except OSError:
            pass  # the file system has no locks


def _busy_error(path: Path) -> UsageError:
    return UsageError(
        f"another imgclassify is writing to {str(path)!r}", hint="wait for it, or choose another --output"
    )
