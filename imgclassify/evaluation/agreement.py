"""Two models on the same images: which answers of theirs are right, and whether one is better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.evaluation.intervals import LEVEL, Estimate, wilson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NEGLIGIBLE = 1e-17
"""A term of a sum that is so much smaller than the sum does not change it."""


class McNemar(NamedTuple):
    """How many images each of two models gets right, and McNemar's test of whether one is better."""

    both: int
    """Images that both models get right."""
    only_a: int
    only_b: int
    neither: int
    p_value: float
    """0..1: how likely so unequal numbers of `only_a` and `only_b` are if the models are equally good."""

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> McNemar:
    """McNemar's test in its exact form, two-sided (McNemar 1947): a sign test of the images that one gets right.

    Args:
        correct_a: (N,), of the first model.
        correct_b: (N,), of the second one, for the same images.

    Raises:
        ValueError: the arrays differ in length.
    """
    both, only_a, only_b, neither = _count(correct_a, correct_b)
    return McNemar(both, only_a, only_b, neither, _sign_test(only_a, only_b))


def accuracy_difference(
    correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], level: float = LEVEL
) -> Estimate:
    """The accuracy of the first model less that of the second, with an interval for paired images.

    It is method 10 of Newcombe 1998 (Statistics in Medicine 17:2635): Wilson's intervals of both accuracies,
    combined with the correlation of the answers.

    Raises:
        ValueError: the arrays differ in length.
    """
    both, only_a, only_b, neither = _count(correct_a, correct_b)
    count = both + only_a + only_b + neither
    if not count:
        return Estimate(None)
    share_a, low_a, high_a = _interval(both + only_a, count, level)
    share_b, low_b, high_b = _interval(both + only_b, count, level)
    correlation = _correlation(both, only_a, only_b, neither)

    def combine(first: float, second: float) -> float:
        return math.sqrt(max(first**2 - 2 * correlation * first * second + second**2, 0))

    value = (only_a - only_b) / count
    low = value - combine(share_a - low_a, high_b - share_b)
    return Estimate(value, low, value + combine(high_a - share_a, share_b - low_b))


def _count(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Images that both models get right, only the first, only the second, and neither."""
    import numpy as np

    if len(correct_a) != len(correct_b):
        raise ValueError(f"The models have answers for {len(correct_a)} and {len(correct_b)} images.")
    neither, only_b, only_a, both = np.bincount(2 * correct_a + correct_b, minlength=4).tolist()
    return both, only_a, only_b, neither


def _interval(successes: int, count: int, level: float) -> tuple[float, float, float]:
    value, low, high = wilson(successes, count, level)
    assert value is not None
    assert low is not None
    assert high is not None
    return value, low, high


def _correlation(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Newcombe's φ: with a continuity correction if it is positive, and 0 if a model is right always or never."""
    product = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if not product:
        return 0.0
    excess = both * neither - only_a * only_b
    if excess > 0:
        return max(excess - (both + only_a + only_b + neither) / 2, 0) / math.sqrt(product)
    return excess / math.sqrt(product)


def _sign_test(first: int, second: int) -> float:
    """How likely a fair coin falls at least so unequally, of `first` + `second` throws.

    The probability of the smaller number or less, doubled. It is summed from its largest term down, each being a
    multiple of the one before. So it neither overflows nor takes long for millions of throws.
    """
    throws, smaller = first + second, min(first, second)
    term = total = 1.0
    for number in range(smaller, 0, -1):
        term *= number / (throws - number + 1)
        if term < _NEGLIGIBLE * total:
            break
        total += term
    log_largest = math.lgamma(throws + 1) - math.lgamma(smaller + 1) - math.lgamma(throws - smaller + 1)
    return min(2 * total * math.exp(log_largest - throws * math.log(2)), 1.0)
