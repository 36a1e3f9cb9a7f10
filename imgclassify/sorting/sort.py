"""Carries out a plan."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from imgclassify.sorting.plan import SortPlan, Transfer
from imgclassify.sorting.transfer import transfer_file
from imgclassify.sorting.undo_list import FOLDER, UndoEntry, UndoList, draft_path

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", None)}


class TransferResult(NamedTuple):
    """What became of one file."""

    transfer: Transfer
    error: OSError | None
    """None if the file is at its target. Else it is only at its source."""


def sort_files(plan: SortPlan, undo_list: UndoList) -> Iterator[TransferResult]:
    """Links, copies or moves the files of a plan. No file is ever replaced.

    A file that fails has its error, and the others are still sorted. Only a full disk ends the iteration. The
    iteration may be stopped between two files.

    Args:
        undo_list: of the plan's folder. Each action is appended before it begins.

    Yields:
        The result for each file, in order.

    Raises:
        UsageError: the undo list cannot be written. The file in turn is then not sorted.
    """
    for transfer in plan.transfers:
        error = _carry_out(plan.action, transfer, undo_list)
        yield TransferResult(transfer, error)
        if error is not None and error.errno in _DISK_FULL:
            return


def _carry_out(action: str, transfer: Transfer, undo_list: UndoList) -> OSError | None:
    source, target = transfer
    try:
        if not target.parent.is_dir():
            _log(undo_list, UndoEntry(FOLDER, target.parent, target.parent))
            target.parent.mkdir()
        path = _log(undo_list, UndoEntry(action, target, source))
        transfer_file(action, source, target, draft_path(target, path))
    except OSError as error:
        undo_list.revoke()
        return error
    return None


def _log(undo_list: UndoList, entry: UndoEntry) -> Path:
    undo_list.add(entry)
    assert undo_list.path is not None
    return undo_list.path
