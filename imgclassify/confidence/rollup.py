"""Rolls an answer up the tree of classes until its probability suffices: "dog" in place of "Tibetan terrier".

The method is Climbing of Goren, Galil and El-Yaniv, "Hierarchical Selective Classification", NeurIPS 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.labels.taxonomy import Taxonomy
from imgclassify.results import Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ChainValues",
    "chain_values",
    "climb",
    "information",
    "lowest_threshold",
    "threshold_for_accuracy",
]


def climb(probabilities: NDArray[np.floating], taxonomy: Taxonomy, at_least: float) -> Answer:
    """Returns the answer for one image.

    It begins at the most probable class, of several the one with the lowest index, and climbs the chain above it
    until the sum of the probabilities of all classes under a node is `at_least` or more.

    Args:
        probabilities: (num_classes,), 0..1.
        at_least: 0..1. With 0 the answer is always a leaf.

    Raises:
        ValueError: `at_least` or the shape is wrong.
    """
    if not 0 <= at_least <= 1:
        raise ValueError(f"at_least is {at_least}, not in 0..1")
    if probabilities.shape != (len(taxonomy.label_set),):
        raise ValueError(f"{probabilities.shape} are not {len(taxonomy.label_set)} probabilities")
    top = int(probabilities.argmax())
    probability = float(probabilities[top])
    if probability >= at_least:
        label = taxonomy.label_set[top]
        return Answer("leaf", label.wnid, label.label, probability)
    for position in taxonomy.chains[top]:
        total = float(probabilities.take(taxonomy.members(position)).astype("float64").sum())
        if total >= at_least:
            node = taxonomy.nodes[position]
            return Answer("rollup", node.wnid, node.label, min(total, 1.0))
    return Answer("unsure", None, None, probability)


class ChainValues(NamedTuple):
    """What `climb` meets on its way up, for many images at once. L is one more than the longest chain."""

    probabilities: NDArray[np.float64]
    """(N, L), of the most probable class and the nodes above it. inf behind the end of the chain."""
    num_classes: NDArray[np.int64]
    """(N, L), the number of classes under each. All behind the end of the chain."""
    is_right: NDArray[np.bool_]
    """(N, L), whether the truth is among them. True behind the end of the chain, since "unsure" is never wrong."""
    lengths: NDArray[np.int64]
    """(N,), the length of each chain, with the class."""

    def answers(self, at_least: float) -> NDArray[np.int64]:
        """Returns the place on its chain of each image's answer: 0 for a leaf, its length for "unsure". (N,)"""
        import numpy as np

        reached = self.probabilities >= at_least
        return np.where(reached.any(axis=1), reached.argmax(axis=1), self.lengths)


def chain_values(probabilities: NDArray[np.floating], truth: ArrayLike, taxonomy: Taxonomy) -> ChainValues:
    """Returns the probabilities on the chain of each image, the same to the last digit as those of `climb`.

    Args:
        probabilities: (N, num_classes), 0..1.
        truth: (N,), the index of the right class of each image.

    Raises:
        ValueError: a shape is wrong, or a truth is no class index.
    """
    import numpy as np

    probabilities = np.asarray(probabilities)
    num_images, num_classes = probabilities.shape
    truths = np.asarray(truth, np.int64)
    if num_classes != len(taxonomy.label_set) or truths.shape != (num_images,):
        raise ValueError(
            f"{probabilities.shape} probabilities and {truths.shape} truths of {len(taxonomy.label_set)} classes"
        )
    if num_images and not 0 <= truths.min() <= truths.max() < num_classes:
        raise ValueError(f"a truth is not in 0..{num_classes - 1}")
    top = probabilities.argmax(axis=1)
    # One place more than the longest chain: "unsure" stands behind the end.
    width = 2 + max(map(len, taxonomy.chains), default=0)
    values = np.full((num_images, width), np.inf)
    counts = np.full((num_images, width), num_classes, np.int64)
    is_right = np.ones((num_images, width), bool)
    values[:, 0] = np.take_along_axis(probabilities, top[:, None], axis=1)[:, 0]
    counts[:, 0] = 1
    is_right[:, 0] = top == truths
    lengths = np.array([1 + len(chain) for chain in taxonomy.chains], np.int64)[top]
    for rows, places, position in _images_by_node(top, taxonomy):
        members = taxonomy.members(position)
        inside = np.zeros(num_classes, bool)
        inside[members] = True
        # The rows are contiguous, so that each is added in the same order as in `climb`.
        under = np.ascontiguousarray(probabilities[rows[:, None], members], np.float64)
        values[rows, places] = under.sum(axis=1)
        counts[rows, places] = members.size
        is_right[rows, places] = inside[truths[rows]]
    return ChainValues(values, counts, is_right, lengths)


_BLOCK = 4096
"""Rows whose probabilities under a node are gathered at once, for the sake of memory."""


def _images_by_node(
    top: NDArray[np.intp], taxonomy: Taxonomy
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], int]]:
    """Yields for each node the images with the node on their chains, its place on each chain, and its position."""
    import numpy as np

    places: dict[int, NDArray[np.intp]] = {}
    for class_index in np.unique(top).tolist():
        for place, position in enumerate(taxonomy.chains[class_index], 1):
            places.setdefault(position, np.zeros(len(taxonomy.label_set), np.intp))[class_index] = place
    for position, place_of_class in places.items():
        rows = np.flatnonzero(place_of_class[top])
        for start in range(0, rows.size, _BLOCK):
            block = rows[start : start + _BLOCK]
            yield block, place_of_class[top[block]], position


def lowest_threshold(values: ChainValues) -> NDArray[np.float64]:
    """Returns for each image the lowest `at_least` with which its answer is right. (N,)

    An answer is right if the truth is under it, and "unsure" always is. So the answer of `climb` is right exactly
    if `at_least` is this number or more. It is 0 if the most probable class is right, and inf if no number up to 1
    helps.
    """
    import numpy as np

    last_wrong = np.where(values.is_right, -np.inf, values.probabilities).max(axis=1)
    lowest = np.where(last_wrong < 0, 0.0, np.nextafter(last_wrong, np.inf))
    return np.where(lowest > 1, np.inf, lowest)


def threshold_for_accuracy(lowest: NDArray[np.floating], accuracy: float) -> float:
    """Returns the `at_least` with which the answers to new images are right with at least this probability.

    It is the split conformal quantile (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005).
    The guarantee is over the choice of the images that `lowest` comes from and of the new image, if they are
    exchangeable.

    Args:
        lowest: (N,), from `lowest_threshold`.
        accuracy: above 0 and below 1.

    Returns:
        0..1. inf if no threshold will do: too many images are wrong with any, or there are fewer than
        accuracy / (1 - accuracy) images.

    Raises:
        ValueError: `accuracy` is out of range.
    """
    from imgclassify.confidence.prediction_sets import conformal_quantile  # climbing does not need it

    if not 0 < accuracy < 1:
        raise ValueError(f"accuracy is {accuracy}, not between 0 and 1")
    return conformal_quantile(lowest, accuracy)


def information(num_classes: ArrayLike, total: int) -> NDArray[np.float64]:
    """Returns the bits that answers tell: log2(total) − log2(num_classes).

    Args:
        num_classes: the classes that each answer leaves open: 1 for a leaf, `total` for "unsure".
        total: the classes of the label set.
    """
    import numpy as np

    return np.asarray(math.log2(total) - np.log2(num_classes))
