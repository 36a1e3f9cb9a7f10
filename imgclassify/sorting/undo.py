"""Reverts a sort by its undo list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from imgclassify.errors import UsageError
from imgclassify.sorting.transfer import is_second_copy, move_file
from imgclassify.sorting.undo_list import FOLDER, UndoEntry, draft_path, read_entries

GONE = "gone already"
CHANGED = "kept: changed since"
ONLY_COPY = "kept: its source is gone"
PLACE_TAKEN = "kept: another file has taken its place"
FAILED = "failed"
_DONE = {"copy": "copy removed", "link": "link removed", "move": "moved back"}


class UndoResult(NamedTuple):
    """What became of one file, or would become of it."""

    target: Path
    """Where the sort put the file."""
    outcome: str
    """What was done, or why nothing was done."""
    reverted: bool
    """Whether the file is no longer at its target."""
    error: OSError | None = None


def undo_sort(path: str | os.PathLike[str], *, dry_run: bool = False) -> Iterator[UndoResult]:
    """Moves moved files back, and removes links and copies, the last first.

    A copy is removed only if its source has the same bytes, and a link only if it still points to its source. A
    moved file goes back only to a free place. Then folders that the sort made are removed if they are empty. When
    nothing is left to undo, the list itself is removed.

    Args:
        path: the undo list.
        dry_run: change nothing.

    Yields:
        The result for each file.

    Raises:
        UsageError: the file is not an undo list.
    """
    undo_list = Path(path)
    entries = read_entries(undo_list)
    complete = True
    for entry in reversed(entries):
        if entry.action == FOLDER:
            continue
        result = _undo(entry, undo_list, dry_run=dry_run)
        complete = complete and result.reverted
        yield result
    if not dry_run:
        if complete:
            undo_list.unlink(missing_ok=True)
        for entry in reversed(entries):
            if entry.action == FOLDER:
                with suppress(OSError):  # it is not empty, or gone
                    entry.target.rmdir()


def _undo(entry: UndoEntry, undo_list: Path, *, dry_run: bool) -> UndoResult:
    try:
        obstacle = _obstacle(entry)
        if not dry_run:
            draft_path(entry.target, undo_list).unlink(missing_ok=True)  # of a killed run
            if obstacle is None:
                _revert(entry, undo_list)
    except OSError as error:
        return UndoResult(entry.target, FAILED, reverted=False, error=error)
    return UndoResult(entry.target, obstacle or _DONE[entry.action], reverted=obstacle in (None, GONE))


def _obstacle(entry: UndoEntry) -> str | None:
    """Returns why the action cannot be undone, or None."""
    action, target, source = entry
    if action not in _DONE:
        raise UsageError(
            f"the undo list has an unknown action {action!r}", hint="use a newer version of imgclassify"
        )
    if not os.path.lexists(target):
        return GONE
    if action == "link":
        return None if target.is_symlink() and target.readlink() == source else CHANGED
    if action == "copy":
        if not os.path.lexists(source):
            return ONLY_COPY
        return None if is_second_copy(target, source) else CHANGED
    # After a kill in the middle of a move, the file may be in both places.
    return None if not os.path.lexists(source) or is_second_copy(target, source) else PLACE_TAKEN


def _revert(entry: UndoEntry, undo_list: Path) -> None:
    action, target, source = entry
    if action != "move" or os.path.lexists(source):
        target.unlink()
        return
    source.parent.mkdir(parents=True, exist_ok=True)
    move_file(target, source, draft_path(source, undo_list))
