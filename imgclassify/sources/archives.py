"""Pictures inside .zip and .tar archives, read member by member; nothing is unpacked to disk."""

# Names stay as the user wrote them; pathlib would turn "./a.jpg" into "a.jpg".

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from imgclassify.errors import ImageNotFoundError, ImageUnreadableError
from imgclassify.sources.archive_errors import damage
from imgclassify.sources.source import Source, fail, reason
from imgclassify.sources.tars import tar_members
from imgclassify.sources.zips import zip_members


def members(path: str, wanted: Callable[[str], bool]) -> Iterator[Source]:
    """The wanted members of an archive, in its own order; a last source that fails where it is damaged."""
    read = zip_members if path.lower().endswith(".zip") else tar_members
    try:
        yield from read(path, wanted)
    except damage() as error:
        message = f"cannot read archive {path!r}: {reason(error)}"
        yield Source(path, partial(fail, ImageUnreadableError, message))


def one_member(name: str, archive: str, member: str) -> Iterator[Source]:
    found = next(members(archive, lambda candidate: candidate == member), None)
    missing = partial(fail, ImageNotFoundError, f"no {member!r} in {archive!r}")
    yield Source(name, found.open if found else missing)
