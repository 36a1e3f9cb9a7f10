"""How wrong a mistake is ("wrong, but a dog"), and what rolling answers up the tree of classes is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.confidence.rollup import ChainValues, information
from imgclassify.labels.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Areas", "Distance", "RollupFigures", "hierarchical_distances", "rollup_areas", "rollup_figures"]


class Distance(NamedTuple):
    """How far an answer is from the truth."""

    height: int
    """The height of the lowest node above both: its longest way down to a class. 0 if the answer is right."""
    label: str | None
    """The lowest node above both that is said: "dog" if both are dogs. None if there is none, or if the answer is
    right."""
    wnid: str | None


def hierarchical_distances(pairs: Iterable[tuple[int | str, int]], taxonomy: Taxonomy) -> list[Distance]:
    """Returns for each pair of truth and answer the height of their lowest common ancestor.

    It is the severity of a mistake of Bertinetto et al., "Making Better Mistakes", CVPR 2020, after Deng et al.,
    "What Does Classifying More Than 10,000 Image Categories Tell Us?", ECCV 2010. Nodes that are passed over in
    words count, too: the height is a matter of the tree. In WordNet each node is under its first hypernym, and 0 to
    18 are possible.

    Args:
        pairs: the truth, as a class index or as the key of a node (in WordNet its wnid), and the index of the class
            that was answered. The answer is right if it is the truth or lies under it.

    Raises:
        KeyError: the truth is neither a class nor a node.
    """
    known: dict[tuple[int | str, int], Distance] = {}
    distances = []
    for pair in pairs:
        if pair not in known:
            known[pair] = _distance(*pair, taxonomy)
        distances.append(known[pair])
    return distances


def _distance(truth: int | str, answer: int, taxonomy: Taxonomy) -> Distance:
    key = truth if isinstance(truth, str) else taxonomy.class_keys[truth]
    answered = taxonomy.class_keys[answer]
    if key not in taxonomy.parents and key not in taxonomy.under:
        raise KeyError(key)
    if key == answered or (isinstance(truth, str) and answer in taxonomy.under.get(key, ())):
        return Distance(0, None, None)
    above_answer = set(taxonomy.lineage(answered))
    common = [each for each in taxonomy.lineage(key) if each in above_answer]
    said = next((taxonomy.by_key[each] for each in common if each in taxonomy.by_key), None)
    return Distance(taxonomy.heights[common[0]], said.label if said else None, said.wnid if said else None)


class RollupFigures(NamedTuple):
    """The answers with one threshold."""

    at_least: float
    num_images: int
    num_leaves: int
    """Answers that are a class."""
    num_unsure: int
    num_wrong: int
    """Answers that the truth is not under. "unsure" is not wrong."""
    bits: float
    """The mean information of the answers, 0 for "unsure", log2(num_classes) for a leaf."""


def rollup_figures(values: ChainValues, at_least: Sequence[float]) -> list[RollupFigures]:
    """Returns the figures of the roll-up with each threshold.

    Args:
        values: from `imgclassify.confidence.rollup.chain_values`.
    """
    import numpy as np

    bits = _bits(values)
    images = np.arange(len(values.lengths))
    figures = []
    for threshold in at_least:
        places = values.answers(threshold)
        figures.append(
            RollupFigures(
                at_least=threshold,
                num_images=images.size,
                num_leaves=int((places == 0).sum()),
                num_unsure=int((places == values.lengths).sum()),
                num_wrong=int((~values.is_right[images, places]).sum()),
                bits=float(bits[images, places].mean()) if images.size else 0.0,
            )
        )
    return figures


class Areas(NamedTuple):
    """The areas under the curves of hierarchical risk and coverage, each 0..1. Less is better."""

    rollup: float
    refusal: float
    """With the class or no answer, by the same probability."""


def rollup_areas(values: ChainValues) -> Areas:
    """Returns the areas under hierarchical risk and coverage (hAURC), of roll-up and of answer-or-refuse.

    Goren, Galil and El-Yaniv, "Hierarchical Selective Classification", NeurIPS 2024, and their program: the
    coverage of an answer with n of C classes under it is 1 − log2(n) / log2(C), so 1 for a leaf and 0 for "unsure".
    The risk with a threshold is the share of wrong answers among all images, where "unsure" is not wrong. Both are
    means over the images. The area is that of the trapezoids between all thresholds at which an answer changes,
    from coverage 1 to 0. It does not depend on a grid of thresholds.

    Args:
        values: from `imgclassify.confidence.rollup.chain_values`, of one image or more and two classes or more.
    """
    import numpy as np

    coverages = _bits(values) / _bits(values).max()
    wrong = (~values.is_right).astype(np.float64)
    ends = np.array([0, -1])  # the class and "unsure", which is what stands behind the end of each chain
    return Areas(
        rollup=_area(values.probabilities[:, :-1], coverages, wrong),
        refusal=_area(values.probabilities[:, :1], coverages[:, ends], wrong[:, ends]),
    )


def _bits(values: ChainValues) -> NDArray[np.float64]:
    return information(values.num_classes, int(values.num_classes[0, -1]) if values.lengths.size else 1)


def _area(probabilities: NDArray[np.float64], coverages: NDArray[np.float64], risks: NDArray[np.float64]) -> float:
    """Returns the area under mean risk over mean coverage as the threshold rises.

    Args:
        probabilities: (N, K), of the answers of each image in the order in which they are given. Each is given
            up once the threshold is higher.
        coverages: (N, K + 1), of each answer, and of the one that is left at the end.
        risks: (N, K + 1).
    """
    import numpy as np

    # An answer that is less probable than the one below it is given up with that one.
    given_up = np.maximum.accumulate(probabilities, axis=1).ravel()
    order = np.argsort(given_up, kind="stable")
    sorted_values = given_up[order]
    changes = [
        np.concatenate([[series[:, 0].sum()], np.diff(series, axis=1).ravel()[order]]).cumsum() / len(series)
        for series in (coverages, risks)
    ]
    # Answers of the same probability are given up at once.
    is_last = np.concatenate([[True], np.append(sorted_values[1:] != sorted_values[:-1], True)])
    coverage, risk = (series[is_last] for series in changes)
    return float((-np.diff(coverage) * (risk[1:] + risk[:-1]) / 2).sum())
