"""Pictures inside .zip and .tar archives, read member by member; nothing is unpacked to disk."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError, describe_error
from imgclassify.sources.archive_errors import archive_errors
from imgclassify.sources.source import Source, raise_error
from imgclassify.sources.tars import tar_members
from imgclassify.sources.zips import zip_members


def archive_members(path: str, accepts: Callable[[str], bool]) -> Iterator[Source]:
    """The wanted members of an archive, in its own order; a last source that fails where it is damaged."""
    read = zip_members if path.lower().endswith(".zip") else tar_members
    try:
        yield from read(path, accepts)
    except archive_errors() as error:
        message = f"cannot read archive {path!r}: {describe_error(error)}"
        yield Source(path, partial(raise_error, ImageUnreadableError, message))


def single_member(name: str, archive: str, member: str) -> Iterator[Source]:
    found = next(archive_members(archive, lambda candidate: candidate == member), None)
    missing = partial(raise_error, ImageNotFoundError, f"no {member!r} in {archive!r}")
    yield Source(name, found.open if found else missing)
