"""Writes files atomically, locks them between processes, and checks what is at a path."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from imgclassify.errors import WeightsError

NOTICE_SECONDS = 2.0
"""Seconds to wait for another process before a warning says so."""

_LONGEST_NAME = 200
"""Longest file name, in bytes, that is part of the name of a temporary file. A longer name, which may have 255
bytes, is replaced by its digest."""

logger = logging.getLogger("imgclassify")


def is_replaceable(path: Path) -> bool:
    """Whether another file can be moved to `path`: it is a file, or does not exist.

    A device, pipe or folder cannot be replaced.
    """
    return path.is_file() or not path.exists()


def has_content(path: Path) -> bool:
    """Whether there is a file at `path` that is not empty.

    An empty file, such as mktemp makes, holds no result that could be lost. Neither does a device or a pipe.
    """
    return path.is_file() and path.stat().st_size > 0


def describe_content(path: Path) -> str:
    """Returns the path of a file and the beginning of its SHA-256, as the value of a setting.

    So a file with another content is another setting. A pipe is not read, since it can be read only once.
    """
    if not path.is_file():
        return str(path)
    return f"{path} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}…)"


def temp_path(path: Path, tag: str = "") -> Path:
    """Returns the path of a hidden file beside `path`, to be written until it is complete."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}{tag}.draft")


@contextmanager
def atomic_write(target: Path, *, locked: bool = False) -> Iterator[Path]:
    """Yields the path of an empty file for the block to fill, and replaces the target by it at the end.

    An existing target's mode is kept. If the block raises an error, the target stays as it was.

    Args:
        locked: whether a lock ensures that no other process writes to the target at the same time. The
            temporary file then always has the same name, so the next write removes what a killed process left.
    """
    draft = temp_path(target, "" if locked else f".{os.getpid()}")
    draft.unlink(missing_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    try:
        draft.touch()
        if mode is not None:
            # The block must be able to write even if the target is read-only.
            draft.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        yield draft
        sync_file(draft)
        if mode is not None:
            draft.chmod(mode)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    with path.open("rb+") as stream:  # Windows syncs only files that are open for writing
        os.fsync(stream.fileno())


@contextmanager
def atomic_folder(target: Path, *, owned: Collection[str]) -> Iterator[Path]:
    """Yields the path of an empty folder for the block to fill, and puts it in the place of the target at the end.

    If the block raises an error, the target stays as it was. The block makes files only, and no folders.

    Args:
        owned: names of entries that are removed with an old target. Its other entries are moved to the new folder.

    Raises:
        OSError: the folder cannot be written or replaced.
    """
    target = target.resolve()  # of a link, what it leads to is replaced
    draft = temp_path(target, f".{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in draft.iterdir():
            sync_file(path)
        if not target.exists():
            draft.rename(target)
            return
        draft.chmod(stat.S_IMODE(target.stat().st_mode))
        _exchange(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    # The draft is now the old folder. If an entry cannot be moved, it stays.
    for entry in list(draft.iterdir()):
        if entry.name not in owned and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(draft, ignore_errors=True)


def _exchange(draft: Path, target: Path) -> None:
    """Swaps two folders."""
    if _exchange_at_once(draft, target):
        return
    old = temp_path(target, f".{os.getpid()}.old")
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    old.rename(draft)


def _exchange_at_once(one: Path, other: Path) -> bool:
    """Swaps two folders so that one is at each path at any moment. Returns False if the system cannot do that."""
    import ctypes

    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "renameat2"):
        return False
    current_folder, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    failed: int = libc.renameat2(current_folder, os.fsencode(one), current_folder, os.fsencode(other), exchange)
    return not failed


@contextmanager
def lock_file(path: Path, what: str, *, hint: str) -> Iterator[Path]:
    """Lets one process at a time change `path`. Creates its folder, and yields the path of the lock file.

    Args:
        what: what the process does while it holds the lock, such as "fetch it", for the warning.
        hint: the hint of the error if the folder cannot be written.

    Raises:
        WeightsError: the folder cannot be written, or no file in it can be locked. Errors in the block are
            raised unchanged.
    """
    from filelock import FileLock, Timeout

    file = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        try:
            lock.acquire(timeout=NOTICE_SECONDS)
        except Timeout:
            logger.warning("waiting for another process to %s: %s", what, path.name)
            lock.acquire()
    except OSError as error:
        raise WeightsError(
            f"the folder {path.parent} cannot be written: {error.strerror or error}", hint=hint
        ) from error
    try:
        yield file
    finally:
        lock.release()


def is_pipe_or_device(path: Path) -> bool:
    """Whether the path is a pipe, a device or the like, which a reader may wait for or read forever.

    Raises:
        OSError: the path cannot be examined, for example because it does not exist.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
