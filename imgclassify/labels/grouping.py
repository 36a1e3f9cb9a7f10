"""Groups of classes whose probabilities are added: parsed from an option, a file or a mapping."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.errors import UsageError
from imgclassify.labels.cell_table import CellTable
from imgclassify.labels.class_names import ClassNames
from imgclassify.labels.label_set import Label, LabelSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["REST", "Grouping", "group_classes"]

REST = "other"
"""The group of all classes that are in no other group."""
_CLASS_COLUMNS = {"class", "cls", "class_index", "label", "wnid", "name", "species"}
_GROUP_COLUMNS = {"group", "bin", "bins", "parent"}
_FORMS_HINT = "docs/labels.md shows how groups are given"


@dataclass(frozen=True)
class Grouping:
    """A label set whose classes are in groups, each class in one group."""

    labels: LabelSet
    """One label per group, in the order given. The last group may be `REST`."""
    members: tuple[tuple[int, ...], ...]
    """For each group the indices of its classes, ascending."""

    def sum_probabilities(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adds the probabilities of the classes of each group.

        Args:
            probabilities: (…, num_classes), 0..1.

        Returns:
            (…, groups), 0..1. Together those of an image have the same sum.
        """
        import numpy as np

        if probabilities.ndim > 1:
            return np.stack([self.sum_probabilities(each) for each in probabilities])
        # bincount adds in float64, so the sum of many small probabilities is right to the last digit of float32.
        sums = np.bincount(self._group_of_class, probabilities, len(self.members))
        return np.minimum(sums, 1).astype(np.float32)

    @cached_property
    def _group_of_class(self) -> NDArray[np.int64]:
        import numpy as np

        groups = np.empty(sum(map(len, self.members)), np.int64)
        for group, members in enumerate(self.members):
            groups[list(members)] = group
        return groups

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the label, the wnid and the class indices of each group, in order."""
        return [
            {"label": label.label, "wnid": label.wnid, "class_indices": list(members)}
            for label, members in zip(self.labels.labels, self.members, strict=True)
        ]


def group_classes(label_set: LabelSet, groups: str | os.PathLike[str] | Mapping[str, Iterable[str]]) -> Grouping:
    """Puts the classes of a label set into groups.

    Args:
        groups: one of these:

            - names such as "dog,cat,bird=n01503061,pet=dog+cat": a label, a wnid or a node of the WordNet tree,
              or a new name with one or several of them
            - the path of a file with two columns, class and group, separated by commas or tabs
            - a mapping from the name of each group to its classes

    Raises:
        UsageError: a class is not known, a class is in two groups, or the file cannot be read.
    """
    names = ClassNames(label_set)
    chosen: dict[str, set[int]] = {}
    wnids: dict[str, str | None] = {}
    taken: dict[int, str] = {}
    for group, text in _read_groups(groups):
        found = names.find(text)
        for index in sorted(found.class_indices):
            if taken.setdefault(index, group) != group:
                raise UsageError(
                    f"class {index}, {label_set[index].label!r}, is in two groups, {taken[index]!r} and {group!r}",
                    hint="leave one of the groups out, so that no probability counts twice",
                )
        # A group of a single node has its wnid.
        wnids[group] = None if group in chosen else found.wnid
        chosen.setdefault(group, set()).update(found.class_indices)
    rest = set(range(len(label_set))) - taken.keys()
    if rest and REST in chosen:
        raise UsageError(f"{REST!r} is the group of all other classes", hint="give the group another name")
    if rest:
        chosen[REST], wnids[REST] = rest, None
    labels = tuple(Label(index, wnids[group], group) for index, group in enumerate(chosen))
    name = f"{label_set.name} in {len(labels)} groups"
    return Grouping(LabelSet(name, labels), tuple(tuple(sorted(members)) for members in chosen.values()))


def _read_groups(groups: str | os.PathLike[str] | Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """Yields (group, class) pairs."""
    if isinstance(groups, Mapping):
        pairs = [(group, str(text)) for group, texts in groups.items() for text in texts]
    elif isinstance(groups, os.PathLike) or _is_file(groups):
        pairs = list(_read_file(os.fspath(groups)))
    else:
        pairs = [pair for item in groups.split(",") for pair in _parse_item(item)]
    for group, text in pairs:
        if not group.strip() or not text.strip():
            raise UsageError(f"a group without a name or without a class: {group!r}, {text!r}", hint=_FORMS_HINT)
        yield group.strip(), text.strip()
    if not pairs:
        raise UsageError(f"there are no groups in {groups!s:.60}", hint=_FORMS_HINT)


def _is_file(text: str) -> bool:
    if text.lower().endswith((".csv", ".tsv", ".txt")):
        return True
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except (OSError, ValueError):  # too long for a file name, or a NUL in it
        return False


def _parse_item(item: str) -> list[tuple[str, str]]:
    group, equals, classes = item.partition("=")
    if not equals:
        return [(group, group)]
    return [(group, text) for text in classes.split("+")]


def _read_file(name: str) -> Iterator[tuple[str, str]]:
    table = CellTable(name, "file of groups", "give a file with two columns: class,group")
    for position, (line, cells) in enumerate(table.rows()):
        if len(cells) != 2:
            raise UsageError(
                f"{name}: line {line} has {len(cells)} columns, not a class and a group", hint=_FORMS_HINT
            )
        first, second = (cell.strip().casefold() for cell in cells)
        if position or first not in _CLASS_COLUMNS or second not in _GROUP_COLUMNS:
            yield cells[1], cells[0]
