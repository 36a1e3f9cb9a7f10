"""Sources inside .zip and .tar archives, which are read member by member. Nothing is unpacked to disk."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError, describe_error
from imgclassify.sources.archive_errors import archive_errors
from imgclassify.sources.source import Source, raise_error
from imgclassify.sources.tars import tar_members, tar_names
from imgclassify.sources.zips import zip_members, zip_names


def archive_members(path: str, accepts: Callable[[str], bool]) -> Iterator[Source]:
    """Yields a source for each member whose name `accepts` takes, in the archive's order.

    If the archive is damaged, the last source is one that fails to open.
    """
    read = zip_members if path.lower().endswith(".zip") else tar_members
    try:
        yield from read(path, accepts)
    except archive_errors() as error:
        message = f"cannot read archive {path!r}: {describe_error(error)}"
        yield Source(path, partial(raise_error, ImageUnreadableError, message))


def find_folders(path: str) -> set[tuple[str, ...]]:
    """Returns the folders in an archive, each as the names from the highest one to its own.

    An archive that can be read only in part has the folders of that part.
    """
    read = zip_names if path.lower().endswith(".zip") else tar_names
    found: set[tuple[str, ...]] = set()
    with suppress(*archive_errors()):
        for name in read(path):
            *folders, _ = name.split("/")
            folders = [each for each in folders if each not in ("", ".")]
            while folders and tuple(folders) not in found:
                found.add(tuple(folders))
                folders.pop()
    return found


def find_member(name: str, archive: str, member: str) -> Source | None:
    """Returns the source of one member, under the given name. None if there is no such member."""
    found = next(archive_members(archive, lambda candidate: candidate == member), None)
    return found and Source(name, found.open)


def missing_member(name: str, archive: str, member: str) -> Source:
    """Returns a source that fails to open, because there is no such member."""
    return Source(name, partial(raise_error, ImageNotFoundError, f"no {member!r} in {archive!r}"))
