"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgclassify.errors import WeightsError

NOTICE_SECONDS = 2.0
"""How long another process is waited for in silence."""

_LONGEST_NAME = 200
"""Bytes. Of a longer name, which may have 255, a digest stands in the temporary file's name."""

logger = logging.getLogger("imgclassify")


def is_replaceable(path: Path) -> bool:
    """Whether another file can take this one's place, or the place is empty. A device, pipe or folder cannot be
    replaced."""
    return path.is_file() or not path.exists()


def temp_path(path: Path, tag: str = "") -> Path:
    """Where a file is written until it is whole: beside it, hidden."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return path.with_name(f".{name}{tag}.draft")


@contextmanager
def atomic_write(target: Path, *, locked: bool = False) -> Iterator[Path]:
    """Yields an empty file to be filled. At the end of the block it takes the target's place, and the target's
    mode. If the block raises, the target stays as it was.

    Args:
        locked: whether no other process writes to the target at the same time. Then the temporary file always has
            the same name, and what a killed process left of it is replaced.
    """
    draft = temp_path(target, "" if locked else f".{os.getpid()}")
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
def lock_file(path: Path, what: str, *, hint: str) -> Iterator[Path]:
    """One process at a time changes `path`. Yields the lock's file, and makes the folder that it is in.

    Args:
        what: is done under the lock, such as "fetch it".
        hint: what to do about a folder that cannot be written.

    Raises:
        WeightsError: the folder cannot be written, or nothing in it locked. What goes wrong under the lock is
            raised as it is.
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


def is_endless(path: Path) -> bool:
    """Whether what lies there is a pipe or a device, and may keep its reader waiting or reading for ever.

    Raises:
        OSError: nothing can be said of it.
    """
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
