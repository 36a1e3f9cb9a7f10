"""Prediction sets: the classes among which the truth is with a chosen probability, by split conformal prediction.

The scores of labelled images give a quantile. The set of a further image is each class with a score of at most the
quantile. If it was drawn as the labelled ones were, its set holds the truth with at least that probability.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from imgclassify.confidence.checks import check_truth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["conformal_quantile", "lac_scores", "lac_set", "raps_scores", "raps_set"]


def lac_scores(probabilities: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Returns how badly the truth fits each answer: 1 − its probability.

    Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", JASA 114, 2019.
    The sets of these scores are the smallest on average.

    Args:
        probabilities: (N, C), 0..1.
        truth: (N,) class indices, 0..C-1.

    Returns:
        (N,) float64, 0..1.

    Raises:
        ValueError: the shapes do not fit, or an index is none of a class.
    """
    import numpy as np

    values = np.asarray(probabilities, np.float64)
    indices = check_truth(values, truth, "probabilities")
    return np.asarray(1 - values[np.arange(len(values)), indices])


def raps_scores(probabilities: ArrayLike, truth: ArrayLike, penalty: float, k_reg: int) -> NDArray[np.float64]:
    """Returns how badly the truth fits each answer: the sum of the probabilities down to it, and a penalty.

    The penalty is `penalty * max(rank − k_reg, 0)`, where the most probable class has rank 1. Not randomised.
    Angelopoulos, Bates, Malik and Jordan, "Uncertainty Sets for Image Classifiers using Conformal Prediction", ICLR
    2021. The sets of these scores are larger where the network is unsure, and smaller elsewhere.

    Args:
        probabilities: (N, C), 0..1.
        truth: (N,) class indices, 0..C-1.
        penalty: added for each rank beyond `k_reg`, at least 0. λ in the article.
        k_reg: how many classes have no penalty, at least 0.

    Returns:
        (N,) float64, at least 0.

    Raises:
        ValueError: the shapes do not fit, an index is none of a class, or `penalty` or `k_reg` is out of its range.
    """
    import numpy as np

    values = np.asarray(probabilities, np.float64)
    indices = check_truth(values, truth, "probabilities")
    order = _most_probable_first(values)
    scores = _sorted_raps_scores(values, order, penalty, k_reg)
    ranks = (order == indices[:, None]).argmax(axis=1) if len(order) else indices
    return np.asarray(scores[np.arange(len(scores)), ranks])


def conformal_quantile(scores: ArrayLike, coverage: float) -> float:
    """Returns the largest score that a class of a prediction set may have.

    Args:
        scores: (N,) the scores of N labelled images. The network was not trained on them, and neither the
            temperature nor `k_reg` and `penalty` were chosen on them.
        coverage: the probability with which a set shall hold the truth, above 0 and at most 1. It counts as the
            decimal that it is written as: 0.07 is 7 of 100.

    Returns:
        The ⌈(N + 1) · coverage⌉-th smallest score. inf if that is more than N, because so few images cannot promise
        so much: the set is then all classes.

    Raises:
        ValueError: the coverage is out of its range, or a score is not a number.
    """
    import numpy as np

    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage!r}, not above 0 and at most 1")
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise ValueError(f"scores are {values.shape}, with {np.isnan(values).sum()} that are not numbers")
    rank = math.ceil((len(values) + 1) * Fraction(repr(float(coverage))))
    return float(np.partition(values, rank - 1)[rank - 1]) if rank <= len(values) else math.inf


def lac_set(probabilities: ArrayLike, quantile: float) -> NDArray[np.intp]:
    """Returns the prediction set of one image: the classes with a LAC score of at most the quantile.

    If no class has, the definition says that the set is empty. The most probable class is then returned, which can
    only raise the coverage.

    Args:
        probabilities: (C,), 0..1.
        quantile: from `conformal_quantile` of `lac_scores`. inf for all classes.

    Returns:
        The class indices, at least one, the most probable first. Of equal ones the lower index comes first.

    Raises:
        ValueError: the quantile is not a number.
    """
    import numpy as np

    values = np.asarray(probabilities, np.float64)
    order = _most_probable_first(values)
    return _below(1 - values[order], order, quantile)


def raps_set(probabilities: ArrayLike, quantile: float, penalty: float, k_reg: int) -> NDArray[np.intp]:
    """Returns the prediction set of one image: the classes with a RAPS score of at most the quantile.

    As in `lac_set`, the most probable class is returned if there is none.

    Args:
        probabilities: (C,), 0..1.
        quantile: from `conformal_quantile` of `raps_scores`. inf for all classes.
        penalty: as in `raps_scores`, the same value.
        k_reg: as in `raps_scores`, the same value.

    Returns:
        As in `lac_set`.

    Raises:
        ValueError: the quantile is not a number, or `penalty` or `k_reg` is out of its range.
    """
    import numpy as np

    values = np.asarray(probabilities, np.float64)
    order = _most_probable_first(values)
    return _below(_sorted_raps_scores(values, order, penalty, k_reg), order, quantile)


def _most_probable_first(probabilities: NDArray[np.float64]) -> NDArray[np.intp]:
    import numpy as np

    return np.argsort(-probabilities, axis=-1, kind="stable")


def _sorted_raps_scores(
    probabilities: NDArray[np.float64], order: NDArray[np.intp], penalty: float, k_reg: int
) -> NDArray[np.float64]:
    """The scores of all classes, the most probable first. They ascend: a sum of floats never falls."""
    import numpy as np

    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty is {penalty!r}, not a finite number of at least 0")
    if k_reg < 0:
        raise ValueError(f"k_reg is {k_reg!r}, below 0")
    # cumsum adds one value after the other, so that one row has the same sums as the same row of many.
    sums = np.cumsum(np.take_along_axis(probabilities, order, axis=-1), axis=-1)
    ranks = np.arange(1, probabilities.shape[-1] + 1)
    return np.asarray(sums + penalty * np.maximum(ranks - k_reg, 0))


def _below(scores: NDArray[np.float64], order: NDArray[np.intp], quantile: float) -> NDArray[np.intp]:
    """The classes with an ascending score of at most the quantile, or the first."""
    import numpy as np

    if math.isnan(quantile):
        raise ValueError("the quantile is not a number")
    return order[: max(1, int(np.searchsorted(scores, quantile, side="right")))]
