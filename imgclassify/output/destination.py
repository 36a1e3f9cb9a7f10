"""Where results go: stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from imgclassify.errors import UsageError


@contextmanager
def destination(path: Path | None) -> Iterator[TextIO]:
    """stdout for None. A file is written beside its place and moved there at the end, also at the end of an
    interrupted run, whose results are then fewer but whole; a killed one leaves an earlier file as it was.

    Raises:
        UsageError: the file cannot be written.
    """
    if path is None or str(path) == "-":
        yield sys.stdout
        return
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            # A device or a pipe cannot be replaced.
            with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                yield stream
            return
        with _replacing(path) as stream:
            yield stream
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(
            f"cannot write {str(path)!r}: {error.strerror or error}",
            hint="choose another place with --output",
        ) from error


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:  # noqa: PTH123
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        except (OSError, UsageError):
            Path(name).unlink(missing_ok=True)
            raise
        except BaseException:
            stream.flush()
            _move(name, path)
            raise
    _move(name, path)


def _move(name: str, path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    Path(name).chmod(0o666 & ~umask)
    os.replace(name, path)  # noqa: PTH105
