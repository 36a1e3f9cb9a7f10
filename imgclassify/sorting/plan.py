"""Decides which file goes into which folder, and under which name."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from imgclassify.errors import NoImagesError, UsageError
from imgclassify.file_names import fold_name, number_name, safe_name
from imgclassify.results import ImageResult, Prediction
from imgclassify.sorting.folder_names import ClassKey, class_key, name_folders
from imgclassify.sorting.transfer import same_content
from imgclassify.sorting.undo_list import find_lists, read_entries
from imgclassify.sources.expansion import is_url, local_path
from imgclassify.sources.path_expansion import split_frame, split_member

ACTIONS = ("copy", "link", "move")
LABELINGS = ("label", "wnid")
"""What folders are named after."""

NO_ANSWER = "without a prediction"
UNSURE = "not probable enough"
REPEATED = "named more than once"
NOT_A_FILE = "not on disk as a file"
SYMBOLIC_LINK = "not moved because of a symbolic link"
MISSING = "missing"
"""Reasons why a record's file is left out. Only MISSING is a failure."""


class Transfer(NamedTuple):
    """One file and its new path."""

    source: Path
    """Absolute, with the links in its folder resolved."""
    target: Path
    """In a folder directly below the plan's folder."""


@dataclass
class SortPlan:
    """What a sort does. Nothing is changed until `sort_files` gets it."""

    folder: Path
    """The folder that files are sorted into. Absolute."""
    action: str
    """One of ACTIONS."""
    transfers: list[Transfer] = field(default_factory=list)
    already_there: Counter[str] = field(default_factory=Counter)
    """How many files an earlier sort has put there, by the name of the folder."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """The names of the other sources, by reason."""
    num_bytes: int = 0
    """The size of the files in `transfers`."""
    sources_folder: Path | None = None
    """The folder that was probably classified: the names of all sources begin with it. Absolute."""


def plan_sort(
    records: Iterable[ImageResult],
    folder: str | os.PathLike[str],
    *,
    action: str = "copy",
    by: str = "label",
    min_probability: float = 0.0,
) -> SortPlan:
    """Plans to sort the files of records into a folder for each class, by their most probable prediction.

    A name that is taken by another file gets a number. A file that is there already, because the same records were
    sorted before, is not sorted again. Relative sources start from the current folder.

    Args:
        records: as `Classifier.stream` yields them, or `output.reading.read_records`.
        folder: its parent must exist.
        action: "copy", "link" (symbolic links with absolute paths) or "move".
        by: "label" or "wnid".
        min_probability: files whose best prediction is less probable are left out; 0..1.

    Raises:
        UsageError: an argument is invalid, or `by` is "wnid" and a prediction has none.
        NoImagesError: there is no record, or none of the files exists.
    """
    if action not in ACTIONS:
        raise UsageError(f"unknown action {action!r}", hint=f"use one of {', '.join(ACTIONS)}")
    if by not in LABELINGS:
        raise UsageError(f"cannot sort by {by!r}", hint=f"use one of {', '.join(LABELINGS)}")
    if not 0 <= min_probability <= 1:
        raise UsageError(f"the least probability is {min_probability}", hint="give a number from 0 to 1")
    planner = _Planner(_require_folder(folder), action)
    answers: list[tuple[str, ClassKey]] = []
    classes: dict[ClassKey, Prediction] = {}
    num_records = 0
    for num_records, record in enumerate(records, start=1):  # noqa: B007 - used after the loop
        best = record.predictions[0] if record.predictions else None
        if best is None:
            planner.leave_out(NO_ANSWER, record.source)
        elif best.probability < min_probability:
            planner.leave_out(UNSURE, record.source)
        else:
            key = class_key(best) if by == "label" else _require_wnid(record.source, best)
            classes.setdefault(key, best)
            answers.append((record.source, key))
    if not num_records:
        raise NoImagesError("there is no record to sort", hint="give the results of at least one image")
    names = name_folders(classes.values()) if by == "label" else {key: safe_name(str(key)) for key in classes}
    for source, key in answers:
        planner.add(source, names[key])
    planner.require_files()
    planner.plan.sources_folder = _common_folder([source for source, _ in answers])
    return planner.plan


class _Planner:
    """Adds one file after another to a plan."""

    def __init__(self, folder: Path, action: str) -> None:
        self.plan = SortPlan(folder, action)
        self._seen: set[Path] = set()
        self._real_folders: dict[str, Path] = {}
        self._claimed: set[str] = set()
        """Folded targets that belong to a file of this plan."""
        self._numbers: dict[str, int] = defaultdict(lambda: 1)
        """The first number to try, by folded target without a number."""
        self._moved: dict[Path, Path] | None = None

    def leave_out(self, reason: str, source: str) -> None:
        self.plan.left_out.setdefault(reason, []).append(source)

    def add(self, name: str, folder_name: str) -> None:
        """Adds the file of a source, or the reason why it is left out."""
        if name == "-" or is_url(name):
            return self.leave_out(NOT_A_FILE, name)
        try:
            source = self._real_path(local_path(name))
        except (OSError, ValueError):  # ValueError: no file can have this name
            return self.leave_out(MISSING, name)
        if source in self._seen:
            return self.leave_out(REPEATED, name)
        self._seen.add(source)
        try:
            status = source.stat()
        except (OSError, ValueError):
            return self._add_missing(name, source, folder_name)
        if not stat.S_ISREG(status.st_mode):
            return self.leave_out(NOT_A_FILE, name)
        if self.plan.action == "move" and source.is_symlink():
            return self.leave_out(SYMBOLIC_LINK, name)
        target = self._find_target(source, self.plan.folder / folder_name)
        if target is None:
            self.plan.already_there[folder_name] += 1
        else:
            self.plan.transfers.append(Transfer(source, target))
            self.plan.num_bytes += status.st_size
        return None

    def require_files(self) -> None:
        """
        Raises:
            NoImagesError: files are missing, and none is there.
        """
        missing = self.plan.left_out.get(MISSING, [])
        if not missing or self.plan.transfers or self.plan.already_there:
            return
        relative = not os.path.isabs(missing[0])  # noqa: PTH117 - a name
        raise NoImagesError(
            f"none of the {len(missing):,} files exists, such as {missing[0]!r}",
            hint="run it in the folder where `imgclassify predict` ran: the names are relative to it"
            if relative
            else "they may have been moved or deleted, or their disk is not connected",
        )

    def _real_path(self, name: str) -> Path:
        """Returns a path that is the same for all names of a file. A link at its end is kept."""
        head, tail = os.path.split(name)
        return Path(os.path.realpath(name)) if tail in ("", ".", "..") else self._real_folder(head) / tail

    def _real_folder(self, folder: str) -> Path:
        if folder not in self._real_folders:
            self._real_folders[folder] = Path(os.path.realpath(folder))
        return self._real_folders[folder]

    def _add_missing(self, name: str, source: Path, folder_name: str) -> None:
        if split_member(name) or split_frame(name):
            self.leave_out(NOT_A_FILE, name)
        elif self.plan.action == "move" and self._is_moved(source):
            self.plan.already_there[folder_name] += 1
        else:
            self.leave_out(MISSING, name)

    def _is_moved(self, source: Path) -> bool:
        """Whether an earlier sort has moved the file to this folder."""
        if self._moved is None:
            self._moved = {
                entry.source: entry.target
                for undo_list in find_lists(self.plan.folder)
                for entry in read_entries(undo_list)
                if entry.action == "move"
            }
        target = self._moved.get(source)
        return target is not None and os.path.lexists(target)

    def _find_target(self, source: Path, folder: Path) -> Path | None:
        """Returns the path where the file goes, or None if it is there already."""
        if source.parent == self._real_folder(str(folder)):
            return None
        plain = fold_name(str(folder / source.name))
        while True:
            number = self._numbers[plain]
            self._numbers[plain] += 1
            target = folder / number_name(source.name, number)
            folded = fold_name(str(target))
            if folded in self._claimed:
                continue
            there = os.path.lexists(target)
            if there and not self._is_sorted(source, target):
                continue
            self._claimed.add(folded)
            return None if there else target

    def _is_sorted(self, source: Path, target: Path) -> bool:
        """Whether an earlier sort has put the file at the target."""
        if self.plan.action == "link":
            return target.is_symlink() and target.readlink() == source
        return self.plan.action == "copy" and not target.is_symlink() and same_content(source, target)


def _common_folder(names: list[str]) -> Path | None:
    """Returns the folder with which all names begin. A name without a folder was not found in one."""
    folders = {
        os.path.dirname(local_path(name))  # noqa: PTH120 - names
        for name in names
        if name != "-" and not is_url(name)
    }
    try:
        common = os.path.commonpath(folders)
    except ValueError:  # there is none
        return None
    # commonpath drops the "." with which all names of `predict .` begin.
    if "" in folders or (not common and not all(folder.startswith(os.curdir) for folder in folders)):
        return None
    return Path(os.path.realpath(common))


def _require_folder(folder: str | os.PathLike[str]) -> Path:
    """Returns the absolute path of a folder that exists or can be made."""
    try:
        real = Path(os.path.realpath(folder))
        nearest = next(path for path in (real, *real.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise UsageError(f"{str(nearest)!r} is not a folder", hint="choose another --into")
        if nearest not in (real, real.parent):
            raise UsageError(
                f"the folder {str(real.parent)!r} does not exist", hint="make it, or choose another --into"
            )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot use the folder {os.fspath(folder)!r}: {error}", hint="choose another --into"
        ) from error
    return real


def _require_wnid(source: str, prediction: Prediction) -> str:
    if prediction.wnid is None:
        raise UsageError(
            f"the prediction for {source!r}, {prediction.label!r}, has no WordNet id", hint="use --by label"
        )
    return prediction.wnid
