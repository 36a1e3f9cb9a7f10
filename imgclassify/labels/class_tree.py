"""The part of the WordNet tree above the classes of a label set, from a node down to its classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.labels.class_names import ClassNames
from imgclassify.labels.label_set import LabelSet
from imgclassify.labels.tree import load_tree

__all__ = ["Branch", "build_class_tree"]


class Branch(NamedTuple):
    """A node with classes under it."""

    wnid: str
    name: str
    """The label of a class, or the usual name of a node."""
    class_index: int | None
    """None if the node itself is no class."""
    num_classes: int
    """The classes that the node is or that lie under it, each counted once."""
    children: tuple[Branch, ...]
    """The nodes directly below it. A node with two parents is below both."""

    def walk(self, level: int = 0) -> Iterator[tuple[int, Branch]]:
        """Yields the level and the branch of this node, 0, and of all below it."""
        yield level, self
        for child in self.children:
            yield from child.walk(level + 1)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, with `children` as a list of such dictionaries."""
        return {**self._asdict(), "children": [child.to_dict() for child in self.children]}


def build_class_tree(label_set: LabelSet, name: str, *, depth: int | None = None) -> Branch:
    """Returns the branch of a node.

    Args:
        name: a label, a wnid, or the name of a node.
        depth: levels below the node. None for all.

    Raises:
        UsageError: no node has this name, or several have.
    """
    tree = load_tree()
    if not any(label.wnid in tree for label in label_set.labels):
        raise UsageError(
            f"the labels of {label_set.name} have no place in the WordNet tree, because they have no wnids",
            hint="give a label set with wnids, such as imagenet1k",
        )
    found = ClassNames(label_set).find(name)
    if found.wnid is None or found.wnid not in tree:
        raise UsageError(
            f"{found.name!r} is not in the WordNet tree", hint="give a label set with wnids, such as imagenet1k"
        )
    labels = {label.wnid: label for label in label_set.labels if label.wnid}
    wanted = tree.above(labels)

    def build(wnid: str, levels: int | None) -> Branch:
        label = labels.get(wnid)
        children = [] if levels == 0 else [each.wnid for each in tree.children(wnid) if each.wnid in wanted]
        return Branch(
            wnid=wnid,
            name=label.label if label else tree[wnid].name,
            class_index=label.class_index if label else None,
            num_classes=len(tree.under(wnid) & labels.keys()),
            children=tuple(build(child, None if levels is None else levels - 1) for child in children),
        )

    return build(found.wnid, depth)
