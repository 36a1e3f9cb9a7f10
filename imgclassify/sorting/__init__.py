"""Sorts image files into folders by their predictions, and undoes it.

plan.py decides which file goes where, and transfer.py links, copies or moves one file. undo_list.py keeps a list of
what was done, and undo.py reverts it. Records come in, so no network is needed.
"""

from imgclassify.sorting.plan import ACTIONS, LABELINGS, SortPlan, Transfer, plan_sort
from imgclassify.sorting.sort import TransferResult, sort_files
from imgclassify.sorting.undo import UndoResult, undo_sort
from imgclassify.sorting.undo_list import UndoList

__all__ = [
    "ACTIONS",
    "LABELINGS",
    "SortPlan",
    "Transfer",
    "TransferResult",
    "UndoList",
    "UndoResult",
    "plan_sort",
    "sort_files",
    "undo_sort",
]
