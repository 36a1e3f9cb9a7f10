"""The walk of a folder: in sorted order, and only as far as its images are requested."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from imgclassify.errors import ImageUnreadableError, describe_error
from imgclassify.sources.files import file_source
from imgclassify.sources.selection import Selection
from imgclassify.sources.source import IMAGE_SUFFIXES, Source, file_suffix, raise_error


class _Folder(NamedTuple):
    path: str
    relative_dir: str
    """The path below what the user named, ending in a slash; "" for the named folder itself."""


def walk_folder(top: str, selection: Selection, relative_dir: str = "") -> Iterator[Source]:
    """Yields the images below `top`, depth first, each folder sorted.

    Holds only the names in the folders of the current branch. A folder that cannot be listed, or not to its
    end, yields a source that fails to open, before the sources found in it.

    Args:
        relative_dir: the path of `top` below what the user named, ending in a slash; "" if `top` was named.
    """
    levels = [(_folder_identity(top), _list_folder(_Folder(top, relative_dir), selection))]
    while levels:
        entry = next(levels[-1][1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, Source):
            yield entry
        elif (identity := _folder_identity(entry.path)) is None or identity not in [
            ancestor for ancestor, _ in levels
        ]:
            # Not a folder above that a symbolic link leads back to. If that is unknown, listing will say why.
            levels.append((identity, _list_folder(entry, selection)))


def _folder_identity(folder: str) -> tuple[int, int] | None:
    """Returns what identifies a folder if a symbolic link leads back to it, or None if that is unknown."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _list_folder(folder: _Folder, selection: Selection) -> Iterator[Source | _Folder]:
    # Only names are kept: a million directory entries would take three times as much memory.
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder.path) as entries:
            for entry in entries:
                name = entry.name
                if not _is_folder(entry):
                    if selection.accepts_file(name, folder.relative_dir):
                        names.append(name)
                elif selection.accepts_folder(name, folder.relative_dir):
                    names.append(name)
                    folders.add(name)
    except OSError as error:
        message = f"cannot read folder {folder.path!r}: {describe_error(error)}"
        yield Source(folder.path, partial(raise_error, ImageUnreadableError, message))
    names.sort()
    for name in names:
        path = os.path.join(folder.path, name)
        yield _Folder(path, f"{folder.relative_dir}{name}/") if name in folders else file_source(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, or an entry that may not be examined. Listing or opening it will report the reason.
        return file_suffix(entry.name) not in IMAGE_SUFFIXES
