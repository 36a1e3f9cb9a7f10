"""Pictures on disk: files, folders, globs."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH112, PTH113, PTH116, PTH118, PTH123, PTH206, PTH207

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from typing import BinaryIO

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError
from imgclassify.sources.source import IMAGE_SUFFIXES, Notice, Source, read_whole, reason, suffix_of

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def expand_path(name: str, notice: Notice, *, globs: bool = True) -> Iterator[Source]:
    if os.path.isdir(name):
        return _noticing_none(_files(_walk(name, notice)), name, notice)
    if _is_archive(name):
        from imgclassify.sources import archives

        return _noticing_none(archives.members(name, archives.is_visible_image), name, notice)
    if os.path.lexists(name):
        return _files([name])
    if split := _split_member(name):
        from imgclassify.sources import archives

        return archives.one_member(name, *split)
    if globs and "\0" not in name and not set(name).isdisjoint("*?["):
        return _glob(name, notice)
    return _files([name])


def _is_archive(path: str) -> bool:
    return path.lower().endswith(ARCHIVE_SUFFIXES) and os.path.isfile(path)


def _split_member(name: str) -> tuple[str, str] | None:
    """("photos.zip", "dogs/rex.jpg") for "photos.zip!dogs/rex.jpg" where photos.zip is an archive."""
    for position, character in enumerate(name):
        if character == "!" and _is_archive(name[:position]):
            return name[:position], name[position + 1 :]
    return None


def _files(paths: Iterable[str]) -> Iterator[Source]:
    return (Source(path, partial(_open_file, path)) for path in paths)


def _noticing_none(sources: Iterator[Source], name: str, notice: Notice) -> Iterator[Source]:
    source = None
    for source in sources:
        yield source
    if source is None:
        notice(f"no image in {name!r}")


def _glob(pattern: str, notice: Notice) -> Iterator[Source]:
    # Sorted by path components, as a folder is walked: what lies in a folder directly follows the folder.
    matches = sorted(set(_matches(pattern)), key=lambda path: path.split(os.sep))
    if not matches:
        notice(f"no file matches {pattern!r}")
    walked = None
    for match in matches:
        # "photos/**" matches the folders and their files both; a file is yielded once.
        if walked is None or not match.startswith(walked):
            walked = os.path.join(match, "") if os.path.isdir(match) else None
            yield from expand_path(match, notice)


def _matches(pattern: str) -> Iterator[str]:
    """glob.iglob, but that ** does not follow symbolic links to folders, which may lead back."""
    parts = pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    before, after = os.sep.join(parts[:at]), os.sep.join(parts[at + 1 :]) or "*"
    for top in glob.glob(before) if before else [os.sep * (at > 0)]:
        for folder, below, _ in os.walk(top or os.curdir):
            below[:] = [name for name in below if not name.startswith(".")]
            inside = folder if top else folder.removeprefix(os.curdir).removeprefix(os.sep)
            yield from _matches(os.path.join(glob.escape(inside), after))


def _walk(top: str, notice: Notice) -> Iterator[str]:
    """The images below `top`, depth first, each folder sorted; holds the names of one branch's folders."""
    levels = [(_identity(top), _list_folder(top, notice))]
    while levels:
        path, is_folder = next(levels[-1][1], (None, False))
        if path is None:
            levels.pop()
        elif not is_folder:
            yield path
        elif (identity := _identity(path)) not in [ancestor for ancestor, _ in levels]:
            levels.append((identity, _list_folder(path, notice)))


def _identity(folder: str) -> tuple[int, int] | None:
    """What a folder is recognised by when a symbolic link leads back to it; None when it cannot be known."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _list_folder(folder: str, notice: Notice) -> Iterator[tuple[str, bool]]:
    """Paths of the visible subfolders and images in `folder`, sorted, each with whether it is a folder."""
    # Names alone are kept: a million directory entries would weigh three times as much.
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.add(entry.name)
                    names.append(entry.name)
                elif suffix_of(entry.name) in IMAGE_SUFFIXES:
                    if _is_special(entry):
                        notice(f"skipped, not a regular file: {entry.path!r}")
                    else:
                        names.append(entry.name)
    except OSError as error:
        notice(f"cannot read folder {folder!r}: {reason(error)}")
    names.sort()
    return ((os.path.join(folder, name), name in folders) for name in names)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link that leads to itself, or where one may not look
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, socket or device. What cannot be examined is not: opening it will say why."""
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _open_file(path: str) -> BinaryIO:
    try:
        stream = open(path, "rb")  # noqa: SIM115  (the caller's to close)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a name with NUL in it
        raise ImageNotFoundError(f"no such file: {path!r}") from error
    except OSError as error:
        raise ImageUnreadableError(f"cannot read {path!r}: {reason(error)}") from error
    mode = os.fstat(stream.fileno()).st_mode
    if stat.S_ISREG(mode):
        return stream
    with stream:
        # A shell's `<(curl …)` is a pipe, and decoders seek.
        if stat.S_ISFIFO(mode):
            return BytesIO(read_whole(stream, path))
    raise ImageUnreadableError(f"neither a file nor a pipe: {path!r}")
