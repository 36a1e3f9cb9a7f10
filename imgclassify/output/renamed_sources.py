"""Finds out why the sources of a resumed run have no records: the same files may have had other names before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple


class NameMismatch(NamedTuple):
    """What is known about a run none of whose sources has an earlier record."""

    earlier: str
    """The name in an earlier record."""
    now: str
    """The name in this run that is most like it."""
    same_file: bool
    """Whether both names lead to the same path."""
    same_ending: bool
    """Whether one name is the end of the other, as "a.jpg" and "/home/me/photos/a.jpg" are."""


def find_mismatch(names: Iterable[str], earlier: Iterable[str]) -> NameMismatch | None:
    """Compares the names of a run with those of earlier records.

    Args:
        names: the names of sources, as given. All are held in memory.
        earlier: the names in earlier records, of which there may be millions.

    Returns:
        The pair of names that says the most, or None if a name is in both, or if one of them is empty.
    """
    wanted = dict.fromkeys(names)
    if not wanted:
        return None
    folder = _working_folder()
    paths = {_full_path(name, folder): name for name in wanted}
    endings = {_base_name(name): name for name in wanted}
    found: NameMismatch | None = None
    for name in earlier:
        if name in wanted:
            return None
        if found is None:
            found = NameMismatch(name, next(iter(wanted)), same_file=False, same_ending=False)
        if not found.same_file and (now := paths.get(_full_path(name, folder))):
            found = NameMismatch(name, now, same_file=True, same_ending=False)
        elif not (found.same_file or found.same_ending):
            now = endings.get(_base_name(name))
            if now is not None and _is_end(name, now):
                found = NameMismatch(name, now, same_file=False, same_ending=True)
    return found


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - compared as text, a million times
    except OSError:  # it was deleted
        return ""


def _full_path(name: str, folder: str) -> str:
    return os.path.normpath(os.path.join(folder, name))  # noqa: PTH118


def _base_name(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _is_end(one: str, other: str) -> bool:
    """Whether the parts of one name are the last parts of the other."""
    first, second = (_parts(name) for name in (one, other))
    length = min(len(first), len(second))
    return first[-length:] == second[-length:]


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
