"""The nodes above the classes of a label set that an answer may be rolled up to, in WordNet or the user's tree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.labels.label_set import LabelSet
from imgclassify.labels.tree import load_tree

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Taxonomy", "TaxonomyNode", "find_taxonomy", "wordnet_taxonomy"]


class TaxonomyNode(NamedTuple):
    """A node that an answer may name."""

    key: str
    """Identifies the node in the tree: its wnid, or its name in a tree without wnids."""
    label: str
    """The text for people, such as "dog"."""
    wnid: str | None
    class_indices: tuple[int, ...]
    """The classes under the node, ascending."""

    @property
    def num_classes(self) -> int:
        return len(self.class_indices)


@dataclass(frozen=True)
class Taxonomy:
    """A tree over the classes of a label set."""

    label_set: LabelSet
    class_keys: tuple[str, ...]
    """The key of each class in `parents`."""
    parents: Mapping[str, str]
    """The key of a class or a node → the key of the node above it. Only the root has none. It holds the nodes that
    are passed over, too."""
    nodes: tuple[TaxonomyNode, ...]
    """The nodes of the chains, each once."""
    chains: tuple[tuple[int, ...], ...]
    """For each class the positions in `nodes` of those above it, the most specific one first. The classes of each
    node hold those of the one before it. The chain ends below the root: a node above all classes tells nothing."""
    under: Mapping[str, Sequence[int]] = field(repr=False)
    """The key of a class or a node, also of one that is passed over → the classes under it, ascending."""
    bottom: tuple[str, ...] = field(repr=False)
    """The keys that heights are counted from."""
    num_unplaced: int = 0
    """Classes that the tree does not name. They are directly under the root, and their chains are empty."""

    def members(self, node: int) -> NDArray[np.intp]:
        """Returns the indices of the classes under a node, ascending, as an array that is made once."""
        found = self._members.get(node)
        if found is None:
            import numpy as np

            found = self._members[node] = np.array(self.nodes[node].class_indices, np.intp)
        return found

    def lineage(self, key: str) -> list[str]:
        """Returns the key, and those of all nodes above it up to the root, also of those that are passed over."""
        return _lineage(key, self.parents)

    @cached_property
    def by_key(self) -> dict[str, TaxonomyNode]:
        """The nodes of the chains by their keys."""
        return {node.key: node for node in self.nodes}

    @cached_property
    def heights(self) -> dict[str, int]:
        """The key of each class and each node above one → the longest way down to a class. That of a class is 0.

        For WordNet the classes are those of ImageNet-1k, so that heights in two label sets can be compared.
        """
        heights: dict[str, int] = {}
        for each in self.bottom:
            for height, key in enumerate(self.lineage(each)):
                heights[key] = max(height, heights.get(key, 0))
        return heights

    @cached_property
    def _members(self) -> dict[int, NDArray[np.intp]]:
        return {}


def wordnet_taxonomy(label_set: LabelSet) -> Taxonomy:
    """Returns the WordNet tree above the classes.

    The chain of a class follows the first hypernym of each synset. It holds the nodes that a person would say
    (`Node.said`). Under a node are all classes that any way leads to, not only those that have it in their chains.

    Raises:
        UsageError: a class has no wnid, or one that is not in the tree.
        LabelsError: the file of the tree is damaged.
    """
    tree = load_tree()
    members: dict[str, list[int]] = defaultdict(list)
    for label in label_set.labels:
        if label.wnid is None or label.wnid not in tree:
            raise UsageError(
                f"it is not known what lies above class {label.class_index}, {label.label!r}, of {label_set.name}: "
                + ("it has no wnid" if label.wnid is None else f"{label.wnid} is not in the WordNet tree"),
                hint="give a tree of your own with --tree FILE",
            )
        for wnid in tree.above([label.wnid]):
            members[wnid].append(label.class_index)
    nodes = {
        wnid: TaxonomyNode(wnid, tree[wnid].said, wnid, tuple(indices))
        for wnid, indices in members.items()
        if tree[wnid].said
    }
    return arrange(
        label_set,
        class_keys=[label.wnid or "" for label in label_set.labels],
        parents={wnid: node.parents[0] for wnid, node in tree.nodes.items() if node.parents},
        nodes=nodes,
        under=members,
        bottom=[wnid for wnid in tree.nodes if not tree.children(wnid)],
    )


def find_taxonomy(label_set: LabelSet) -> Taxonomy | None:
    """Returns the WordNet tree above the classes. None if a class is not in it."""
    try:
        return wordnet_taxonomy(label_set)
    except UsageError:
        return None


def arrange(
    label_set: LabelSet,
    class_keys: Iterable[str],
    parents: Mapping[str, str],
    nodes: Mapping[str, TaxonomyNode],
    under: Mapping[str, Sequence[int]],
    bottom: Iterable[str],
    num_unplaced: int = 0,
) -> Taxonomy:
    """Returns the taxonomy with the chains that follow from `parents`.

    Args:
        nodes: the nodes that may be said, by key. Those above all classes are left out.
        under: all nodes and classes, as in `Taxonomy`.
    """
    class_keys = tuple(class_keys)
    positions: dict[str, int] = {}
    chains = []
    for class_key in class_keys:
        chain = [
            key
            for key in _lineage(class_key, parents)
            if key in nodes
            and nodes[key].num_classes < len(label_set)
            # A class that lies above other classes is a node, too.
            and (key != class_key or nodes[key].num_classes > 1)
        ]
        chains.append(tuple(positions.setdefault(key, len(positions)) for key in chain))
    said = tuple(nodes[key] for key in positions)
    return Taxonomy(label_set, class_keys, parents, said, tuple(chains), under, tuple(bottom), num_unplaced)


def _lineage(key: str, parents: Mapping[str, str]) -> list[str]:
    keys = [key]
    while keys[-1] in parents:
        keys.append(parents[keys[-1]])
    return keys
