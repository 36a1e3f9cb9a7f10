"""Links, copies or moves one file. A file appears at its target whole or not at all, and replaces no other."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path


def transfer_file(action: str, source: Path, target: Path, draft: Path) -> None:
    """Links, copies or moves a file.

    Args:
        action: "link", "copy" or "move".
        source: an absolute path. A link points to it.
        draft: where an incomplete copy is written, in the target's folder. Its remains are replaced.

    Raises:
        FileExistsError: there is something at the target.
        OSError: the file cannot be read, written or, for "move", removed. Then there is no file at the target.
    """
    if action == "link":
        target.symlink_to(source)
    elif action == "copy":
        _copy(source, target, draft)
    else:
        move_file(source, target, draft)


def move_file(source: Path, target: Path, draft: Path) -> None:
    """Moves a file, also to another file system. The source is removed when the file is at its target.

    Raises:
        FileExistsError: there is something at the target.
        OSError: it cannot be moved. The file is then at its source.
    """
    try:
        _place(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target, draft)
        _remove_source(source, target)


def is_second_copy(path: Path, original: Path) -> bool:
    """Whether `path` can be removed without a loss: another file, `original`, has the same bytes."""
    if path.is_symlink() or not same_content(path, original):
        return False
    # Not two names of one file, unless they are hard links.
    return os.path.realpath(path) != os.path.realpath(original)


def same_content(first: Path, second: Path) -> bool:
    """Whether both are files with the same bytes. False if one cannot be read."""
    try:
        return all(stat.S_ISREG(path.stat().st_mode) for path in (first, second)) and filecmp.cmp(
            first, second, shallow=False
        )
    except OSError:
        return False
    finally:
        filecmp.clear_cache()


def _copy(source: Path, target: Path, draft: Path) -> None:
    draft.unlink(missing_ok=True)
    try:
        shutil.copyfile(source, draft)
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        with suppress(OSError):  # the file system may have no times or modes
            shutil.copystat(source, draft)
        _place(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _place(source: Path, target: Path) -> None:
    """Renames a file, but never replaces one: `rename` would, and making a hard link does not."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise
        # This file system has no hard links.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        source.rename(target)
        return
    _remove_source(source, target)


def _remove_source(source: Path, target: Path) -> None:
    """Removes the source of a file that is at its target. If that fails, removes the target."""
    try:
        source.unlink()
    except OSError:
        if os.path.lexists(source):  # a network file system may report an error after it has removed the file
            target.unlink()
        raise
