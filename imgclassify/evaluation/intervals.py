"""Figures with their intervals: by a formula where there is one, by the bootstrap where there is none."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95
"""The level of all intervals."""
_FEW_DEGREES = 200
"""Up to so many degrees of freedom, Student's quantile is found by bisection. Beyond, a series has an error below
1e-11."""


class Estimate(NamedTuple):
    """A figure, and the interval that holds the true one at the level asked for."""

    value: float | None
    """None where the figure is not defined, as for no images."""
    low: float | None = None
    """None where no interval can be given, as for the mean of one image."""
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return self._asdict()


def wilson(successes: float, count: float, level: float = LEVEL) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which is within 0..1, and not empty at 0 and 1.

    Args:
        successes: 0..`count`.
        count: all of them. Without any, nothing is defined. It may be an effective number, with a fraction.
    """
    if not count:
        return Estimate(None)
    share = successes / count
    square = normal_quantile(level) ** 2
    middle = successes + square / 2
    half = math.sqrt(square * (count * share * (1 - share) + square / 4))
    low, high = (middle - half) / (count + square), (middle + half) / (count + square)
    return Estimate(share, low, 1.0 if successes == count else high)


def mean(values: NDArray[np.float64], level: float = LEVEL) -> Estimate:
    """A mean with Student's t interval, which is right for many values of any distribution (central limit theorem).

    Args:
        values: (N,). If one is infinite, so is the mean, and there is no interval.
    """
    import numpy as np

    if not len(values):
        return Estimate(None)
    value = float(np.mean(values))
    if len(values) == 1 or not math.isfinite(value):
        return Estimate(value)
    half = student_quantile(len(values) - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(value, value - half, value + half)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """A figure with the bootstrap's percentile interval (Efron and Tibshirani 1993, chapter 13).

    If the figure itself is outside, the interval is extended to it.

    Args:
        statistic: computes the figure from how often each image was drawn, (N,) int64 whose sum is N, in any fixed
            order of the images. So they are sorted once, and each resample takes linear time. All ones are the
            images as they are.
        count: N, the number of images. There is no interval for one.
        seed: the same seed gives the same resamples.
    """
    import numpy as np

    if not count:
        return Estimate(None)
    value = float(statistic(np.ones(count, np.int64)))
    if count == 1:
        return Estimate(value)
    values = [statistic(weights) for weights in resample(count, resamples, seed)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


def resample(count: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """For each resample, how often each image was drawn: (N,) int64 whose sum is N."""
    import numpy as np

    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, count, count), minlength=count)


def student_quantile(degrees: int, level: float) -> float:
    """The t for which Student's distribution has the share `level` in -t..t.

    Abramowitz and Stegun 1964: the finite sums 26.7.3 and 26.7.4, and the series 26.7.5.
    """
    z = normal_quantile(level)
    if degrees > _FEW_DEGREES:
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))
    low, high = 0.0, math.pi / 2
    while (angle := (low + high) / 2) not in (low, high):
        low, high = (angle, high) if _student_share(angle, degrees) < level else (low, angle)
    return math.sqrt(degrees) * math.tan(angle)


def _student_share(angle: float, degrees: int) -> float:
    """The share of Student's distribution in -t..t, where t is √degrees tan(angle)."""
    odd = degrees % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for step in range(1 + odd, degrees, 2):
        total += term
        term *= step / (step + 1) * math.cos(angle) ** 2
    share = math.sin(angle) * total
    return (angle + share) * 2 / math.pi if odd else share


def normal_quantile(level: float) -> float:
    """The z for which the normal distribution has the share `level` in -z..z."""
    return NormalDist().inv_cdf((1 + level) / 2)
