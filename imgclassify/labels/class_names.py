"""Finds the classes of a label set that a name stands for: a label, a wnid, or a node of the WordNet tree."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from imgclassify.errors import UnknownClassError, UsageError
from imgclassify.labels.label_set import Label, LabelSet
from imgclassify.labels.tree import Tree, load_tree

__all__ = ["ClassNames", "NamedClasses"]

_FEW = 20
"""Label sets of up to so many classes are listed in a hint."""


class NamedClasses(NamedTuple):
    """The classes that a name stands for."""

    name: str
    """The label, or the usual name of the node."""
    wnid: str | None
    """The wnid of the node. None if the classes have none."""
    class_indices: frozenset[int]


class ClassNames:
    """The names of the classes of a label set, and of the nodes of the WordNet tree above them."""

    def __init__(self, label_set: LabelSet) -> None:
        self._label_set = label_set

    def find(self, text: str) -> NamedClasses:
        """Returns the classes that a text stands for. Case is ignored.

        Labels and the usual names of nodes come first, then synonyms. So "cat" is the cat (cat, true cat), not the
        big cat (big cat, cat). With a node come all classes below it.

        Args:
            text: a label, a synonym, a wnid, the name of a node, such as "dog", or a class index.

        Raises:
            UnknownClassError: no class and no node has this name.
            UsageError: several have it, or it cannot be known which classes lie below the node.
        """
        wanted = text.strip().casefold()
        if wanted in self._wnids:
            return self._classes_of(wanted)
        for names in (self._usual_names, self._synonyms):
            keys = names.get(wanted, set())
            if len(keys) > 1:
                raise UsageError(
                    f"{text!r} can mean {len(keys)} things: {'; '.join(map(self._describe, sorted(keys)))}",
                    hint="give the wnid instead",
                )
            if keys:
                return self._classes_of(next(iter(keys)))
        if wanted.isascii() and wanted.isdigit() and int(wanted) < len(self._label_set):
            label = self._label_set[int(wanted)]
            return NamedClasses(label.label, label.wnid, frozenset([label.class_index]))
        raise UnknownClassError(
            f"no class of {self._label_set.name} has the name {text!r}, and none lies under such a node of WordNet",
            hint=self._suggest(wanted),
        )

    def find_all(self, texts: Iterable[str]) -> frozenset[int]:
        """Returns the indices of the classes that any of the texts stands for. Raises as `find` does."""
        return frozenset(index for text in texts for index in self.find(text).class_indices)

    def _suggest(self, wanted: str) -> str:
        if len(self._label_set) <= _FEW:
            return f"the labels are {', '.join(label.label for label in self._label_set.labels)}"
        if "," in wanted:
            return "give each name with an option of its own"
        nearest = difflib.get_close_matches(wanted, {**self._synonyms, **self._usual_names}, n=3, cutoff=0.8)
        meant = f"did you mean {' or '.join(nearest)}? " if nearest else ""
        return f"{meant}`imgclassify labels search TEXT` finds classes, `imgclassify labels tree` shows the nodes"

    @cached_property
    def _tree(self) -> Tree:
        return load_tree()

    @cached_property
    def _class_wnids(self) -> frozenset[str]:
        return frozenset(label.wnid for label in self._label_set.labels if label.wnid)

    @cached_property
    def _nodes(self) -> frozenset[str]:
        """The wnids of the classes that are in the tree, and of all nodes above them."""
        return self._tree.above(self._class_wnids) if self._class_wnids else frozenset()

    @cached_property
    def _wnids(self) -> frozenset[str]:
        return self._class_wnids | self._nodes

    @cached_property
    def _usual_names(self) -> dict[str, set[str]]:
        """Name → the wnids with this name, or the label itself where there is no wnid."""
        names: dict[str, set[str]] = defaultdict(set)
        for label in self._label_set.labels:
            names[label.label.casefold()].add(_key(label))
        for wnid in self._nodes:
            names[self._tree[wnid].name.casefold()].add(wnid)
        return names

    @cached_property
    def _synonyms(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = defaultdict(set)
        for label in self._label_set.labels:
            for synonym in label.synonyms:
                names[synonym.casefold()].add(_key(label))
        for wnid in self._nodes:
            for synonym in self._tree[wnid].synonyms:
                names[synonym.casefold()].add(wnid)
        return names

    def _classes_of(self, key: str) -> NamedClasses:
        labels = self._label_set.labels
        same = [label for label in labels if _key(label) == key]
        if key not in self._nodes:
            return NamedClasses(same[0].label, same[0].wnid, frozenset(label.class_index for label in same))
        under = self._tree.under(key)
        unplaced = [label for label in labels if label.wnid not in self._nodes]
        if unplaced and not same:
            raise UsageError(
                f"it is not known which classes of {self._label_set.name} lie under {self._tree[key].name!r}: "
                f"class {unplaced[0].class_index}, {unplaced[0].label!r}, has no wnid in the WordNet tree",
                hint="name the classes themselves, or group them with --group FILE",
            )
        name = same[0].label if same else self._tree[key].name
        return NamedClasses(name, key, frozenset(label.class_index for label in labels if label.wnid in under))

    def _describe(self, key: str) -> str:
        if key in self._nodes:
            node = self._tree[key]
            return f"{key} ({node.name}: {node.gloss})"
        return next(
            f"{label.wnid or 'the class'} ({label.label})" for label in self._label_set.labels if _key(label) == key
        )


def _key(label: Label) -> str:
    """Identifies the classes that a name stands for: the wnid, or for a class without one its label."""
    return label.wnid or label.label
