"""One process at a time: a lock's file beside what it guards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgclassify.errors import WeightsError

NOTICE_SECONDS = 2.0
"""How long another process is waited for in silence."""

logger = logging.getLogger("imgclassify")


@contextmanager
def lock_file(path: Path, what: str, *, hint: str) -> Iterator[Path]:
    """One process at a time changes `path`. Gives the lock's file, and makes the folder it lies in.

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
