"""The WordNet tree above the classes of ImageNet: which wnids lie under which (labels/imagenet1k.tree.tsv)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from imgclassify.errors import LabelsError
from imgclassify.paths import REINSTALL_HINT, data_folder

__all__ = ["ROOT", "Node", "Tree", "load_tree"]

_FILE = "imagenet1k.tree.tsv"
_HEADER = "wnid\tparents\tsynonyms\tsaid\tgloss"
ROOT = "n00001740"
"""The synset "entity", above all others."""


@dataclass(frozen=True, slots=True)
class Node:
    """A synset of WordNet 3.0."""

    wnid: str
    parents: tuple[str, ...]
    """The wnids directly above it. A dog is both a canine and a domestic animal. Only `ROOT` has none."""
    synonyms: tuple[str, ...]
    """Its names, the most usual one first."""
    gloss: str
    """A short definition."""
    said: str = ""
    """The synonym by which a person would call what an image shows, such as "dog". Empty if the node is passed
    over, as "placental" is, and for classes, which have a label."""

    @property
    def name(self) -> str:
        return self.synonyms[0]


@dataclass(frozen=True)
class Tree:
    """The synsets of ImageNet's classes and all synsets above them. It is a graph without cycles."""

    nodes: dict[str, Node]
    """wnid → its node."""

    @cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for node in self.nodes.values():
            for parent in node.parents:
                children.setdefault(parent, []).append(node.wnid)
        return children

    def __contains__(self, wnid: object) -> bool:
        return wnid in self.nodes

    def __getitem__(self, wnid: str) -> Node:
        return self.nodes[wnid]

    def children(self, wnid: str) -> list[Node]:
        """Returns the nodes directly below a node, by wnid."""
        return [self.nodes[child] for child in sorted(self._children.get(wnid, ()))]

    def under(self, wnid: str) -> frozenset[str]:
        """Returns the wnid itself and those of all nodes below it."""
        return frozenset(_reach([wnid], lambda each: self._children.get(each, ())))

    def above(self, wnids: Iterable[str]) -> frozenset[str]:
        """Returns those of the wnids that are in the tree, and those of all nodes above them."""
        return frozenset(
            _reach([each for each in wnids if each in self.nodes], lambda each: self.nodes[each].parents)
        )


def _reach(wnids: list[str], neighbours: Callable[[str], Iterable[str]]) -> Iterator[str]:
    seen: set[str] = set()
    while wnids:
        wnid = wnids.pop()
        if wnid not in seen:
            seen.add(wnid)
            yield wnid
            wnids.extend(neighbours(wnid))


@cache
def load_tree() -> Tree:
    """Returns the tree that ships with imgclassify.

    Raises:
        LabelsError: its file is damaged.
    """
    try:
        header, *lines = (data_folder("labels") / _FILE).read_text("utf-8").removesuffix("\n").split("\n")
        if header != _HEADER:
            raise ValueError("the header is wrong")
        nodes = {}
        for line in lines:
            wnid, parents, synonyms, said, gloss = line.split("\t")
            nodes[wnid] = Node(
                wnid, tuple(parents.split("|")) if parents else (), tuple(synonyms.split("|")), gloss, said
            )
        if missing := {parent for node in nodes.values() for parent in node.parents} - nodes.keys():
            raise ValueError(f"{min(missing)} is missing")
    except (OSError, ValueError) as error:
        raise LabelsError(
            f"the WordNet tree that ships with imgclassify is damaged: {error}",
            hint=REINSTALL_HINT,
        ) from error
    return Tree(nodes)
