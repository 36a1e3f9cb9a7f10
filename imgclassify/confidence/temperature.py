"""Temperature scaling: one number that logits are divided by, so that a probability is how often it is right.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.confidence.checks import check_truth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MAX_TEMPERATURE", "MIN_TEMPERATURE", "fit_temperature", "log_softmax"]

MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0
"""The range that `fit_temperature` searches. Published networks lie between 0.5 and 3."""

_CHUNK = 1 << 17
"""Logits that are computed at a time: a megabyte in float64, which stays in a processor's cache."""
_MAX_STEPS = 200
_STEP_TOLERANCE = 1e-7
"""A Newton step that is relatively smaller is the last one. It doubles the digits that are right."""
_BRACKET_TOLERANCE = 1e-12
"""Relative, too. Bisection ends here, also at the ends of the range."""


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Returns the natural logarithms of the probabilities.

    Args:
        logits: (..., C), finite, any type of float.
        temperature: what the logits are divided by, above 0.

    Returns:
        (..., C) float64. No probability is so small that its logarithm becomes -inf.

    Raises:
        ValueError: the temperature is not a finite number above 0.
    """
    import numpy as np

    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature!r}, not a finite number above 0")
    values = np.asarray(logits, np.float64)
    scaled: NDArray[np.float64] = values - values.max(axis=-1, keepdims=True)
    scaled /= temperature
    scaled -= np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    return scaled


def fit_temperature(logits: NDArray[Any], truth: ArrayLike) -> float:
    """Finds the temperature with the least negative log-likelihood (NLL) of the truth.

    The NLL is convex in 1/T. The root of its derivative is found by Newton's method, and by bisection where a step
    of it would leave the bracket or shrink it too little. It needs few megabytes beyond the logits.

    Args:
        logits: (N, C) float16, float32 or float64, finite.
        truth: (N,) class indices, 0..C-1.

    Returns:
        The temperature, between MIN_TEMPERATURE and MAX_TEMPERATURE. If the truth has the largest logit in every
        row, the NLL falls towards T = 0 and MIN_TEMPERATURE is returned, which is no calibration: such data say
        nothing about how sure the network may be. If the NLL falls towards T = ∞ (the answers are no better than
        chance), MAX_TEMPERATURE is returned. If it does not depend on T, because all logits of a row are equal,
        1.0 is returned.

    Raises:
        ValueError: there is no row, a logit is not finite, the shapes do not fit, or an index is none of a class.
    """
    import numpy as np

    logits = np.asarray(logits)
    truth = check_truth(logits, truth, "logits")
    if not logits.size:
        raise ValueError(f"logits are {logits.shape}: a temperature needs at least one row")
    if not all(np.isfinite(part).all() for part in _chunks(logits)):
        raise ValueError("a logit is not finite")
    equal = right = True
    for shifted, of_truth in _shifted_chunks(logits, truth):
        equal &= not shifted.any()
        right &= not of_truth.any()
    if equal:
        return 1.0
    if right:
        return MIN_TEMPERATURE
    return 1 / _find_root(lambda inverse: _nll_slope(logits, truth, inverse))


class _Slope(NamedTuple):
    """The derivatives of the NLL with respect to 1/T, summed over the rows."""

    first: float
    second: float


def _find_root(slope: Callable[[float], _Slope]) -> float:
    """Returns the 1/T at which the first derivative is zero, or the end of the range nearest to it.

    The derivative grows with 1/T. A Newton step is taken if it stays in the bracket and is less than half of the
    last step; otherwise the end of the range is tried once, and then the bracket is bisected.
    """
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    untried = {low, high}
    inverse = 1.0
    step = before = math.inf
    for _ in range(_MAX_STEPS):
        first, second = slope(inverse)
        if first == 0:
            return inverse
        if first > 0:
            high = inverse
        else:
            low = inverse
        if high - low < _BRACKET_TOLERANCE * high:
            break
        before, step = step, -first / second if second > 0 else -math.copysign(math.inf, first)
        target = inverse + step
        if low < target < high and 2 * abs(step) < abs(before):
            if abs(step) < _STEP_TOLERANCE * inverse:
                return target
        else:
            end = high if step > 0 else low
            target = end if end in untried else math.sqrt(low * high)
            untried.discard(end)
            step = target - inverse
        inverse = target
    return low if low == 1 / MAX_TEMPERATURE else high


def _nll_slope(logits: NDArray[Any], truth: NDArray[np.intp], inverse: float) -> _Slope:
    # The NLL of a row is log Σ exp(z/T) − z_truth/T. Its derivatives are the mean of z under the probabilities,
    # less z_truth, and the variance of z.
    import numpy as np

    first = second = 0.0
    for shifted, right in _shifted_chunks(logits, truth):
        weights = np.exp(shifted * inverse)
        total = weights.sum(axis=1)
        weights *= shifted
        mean = weights.sum(axis=1) / total
        square = np.einsum("ij,ij->i", weights, shifted) / total
        first += float((mean - right).sum())
        second += float((square - mean * mean).sum())
    return _Slope(first, second)


def _shifted_chunks(
    logits: NDArray[Any], truth: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yields some rows in float64, less their largest logit, and the values of the truth in them."""
    import numpy as np

    begin = 0
    for part in _chunks(logits):
        shifted = part.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        yield shifted, shifted[np.arange(len(part)), truth[begin : begin + len(part)]]
        begin += len(part)


def _chunks(logits: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = max(1, _CHUNK // logits.shape[1])
    return (logits[begin : begin + rows] for begin in range(0, len(logits), rows))
