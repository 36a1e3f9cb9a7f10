"""Labels of the truth that are likely wrong: the rule of confident learning (Northcutt, Jiang and Chuang 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

_BLOCK = 4096
"""Images that are looked at together, which limits memory."""
_TOLERANCE = 1e-6
"""Probabilities that differ by less are equal, as in cleanlab."""
_MIN_THRESHOLD = 2e-6
"""No threshold is smaller, as in cleanlab: a probability of 0 is never confident."""


class LabelError(NamedTuple):
    """An image that is probably of another class than its truth says."""

    image: int
    """Its index in the arrays."""
    truth: int
    suggested: int
    truth_probability: float
    suggested_probability: float


def find_label_errors(
    truth: Integers,
    top_classes: Integers,
    top_probabilities: Floats,
    truth_probability: Floats,
) -> list[LabelError]:
    """The images whose truth is likely wrong, the likeliest first.

    A class is confident in an image if its probability there reaches its threshold: its mean probability over the
    images that are labelled with it. If one class is confident, it is suggested. If several are, the most probable
    class of all is. The truth is likely wrong if another class is suggested, and the truth is not the most
    probable.

    They are ordered by the probability of the truth less the largest one of another class (cleanlab's normalized
    margin), and equal ones by their index.

    With the probabilities of all classes (K = C) this is `find_label_issues(filter_by="confident_learning")` of
    cleanlab 2.9. The paper suggests the most probable of the confident classes instead. With fewer probabilities,
    an image is missed if the class that would be suggested is not among its K best.

    Args:
        truth: (N,) ids of classes, from 0.
        top_classes: (N, K) ids of the most probable classes of each image. Rows with fewer are padded with -1. Of
            equally probable classes, the first is suggested.
        top_probabilities: (N, K) in 0..1. 0 where padded.
        truth_probability: (N,) in 0..1, of the class `truth`, whether it is among the K best or not.
    """
    import numpy as np

    if not len(truth) or not top_classes.shape[1]:
        return []
    thresholds = _thresholds(truth, truth_probability, max(int(truth.max()), int(top_classes.max())) + 1)
    found: list[LabelError] = []
    margins: list[float] = []
    for start in range(0, len(truth), _BLOCK):
        block = slice(start, start + _BLOCK)
        given = truth_probability[block]
        suggested, column = _suggest(truth[block], top_classes[block], top_probabilities[block], given, thresholds)
        others = np.where(top_classes[block] == truth[block, None], -1.0, top_probabilities[block]).max(axis=1)
        wrong = (suggested >= 0) & (suggested != truth[block]) & (given + _TOLERANCE < others)
        for index in np.flatnonzero(wrong).tolist():
            image = start + index
            probability = float(top_probabilities[image, column[index]])
            found.append(
                LabelError(image, int(truth[image]), int(suggested[index]), float(given[index]), probability)
            )
            margins.append(float(given[index] - others[index]))
    return [found[index] for index in np.argsort(margins, kind="stable")]


def _thresholds(truth: Integers, truth_probability: Floats, num_classes: int) -> Floats:
    """(num_classes,): the mean probability of each class over its images. Infinite for a class without any."""
    import numpy as np

    counts = np.bincount(truth, minlength=num_classes)
    sums = np.bincount(truth, weights=truth_probability, minlength=num_classes)
    thresholds = np.full(num_classes, np.inf)
    np.divide(sums, counts, out=thresholds, where=counts > 0)
    return thresholds.clip(min=_MIN_THRESHOLD)


def _suggest(
    truth: Integers, classes: Integers, probabilities: Floats, truth_probability: Floats, thresholds: Floats
) -> tuple[Integers, Integers]:
    """The class that each image seems to be of, (n,), and its column.

    -1 if none is confident, or only a truth that is not among the columns.
    """
    import numpy as np

    confident = probabilities >= thresholds[classes] - _TOLERANCE  # never the padding, as no threshold admits 0
    truth_elsewhere = ~(classes == truth[:, None]).any(axis=1)
    truth_elsewhere &= truth_probability >= thresholds[truth] - _TOLERANCE
    number = np.count_nonzero(confident, axis=1)
    column = np.where(number + truth_elsewhere > 1, probabilities.argmax(axis=1), confident.argmax(axis=1))
    return np.where(number > 0, classes[np.arange(len(classes)), column], -1), column
