"""Two models on the same images: against scipy, and against published intervals."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from imgclassify.evaluation.agreement import accuracy_difference, mcnemar
from imgclassify.evaluation.intervals import Estimate

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """In mixed order."""
    pairs = np.repeat([[1, 1], [1, 0], [0, 1], [0, 0]], [both, only_a, only_b, neither], axis=0).astype(np.bool_)
    first, second = np.random.default_rng(0).permutation(pairs).T
    return first, second


@given(counts=counts)
def test_the_test_is_scipys(counts: tuple[int, int, int, int]) -> None:
    result = mcnemar(*answers(*counts))
    assert result[:4] == counts
    _, only_a, only_b, _ = counts
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert result.p_value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 5000), (2400, 2600), (30_000, 30_500), (1_000_000, 1_001_000), (12, 90_000)]
)
def test_the_test_of_many_images(only_a: int, only_b: int) -> None:
    p_value = mcnemar(*answers(1, only_a, only_b, 1)).p_value
    assert p_value == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, rel=1e-7, abs=1e-300)


def test_the_test_is_exact() -> None:
    expected = 2 * sum(comb(250, number) for number in range(101)) / 2**250
    assert mcnemar(*answers(3, 100, 150, 4)).p_value == pytest.approx(expected, rel=1e-12)
    assert mcnemar(*answers(0, 0, 0, 9)).to_dict() == {
        "both": 0,
        "only_a": 0,
        "only_b": 0,
        "neither": 9,
        "p_value": 1,
    }


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((59, 6, 16, 80), -0.1186, -0.0046),  # Fagerland, Lydersen and Laake 2017, chapter 8: Cavo et al. 2012
        ((1, 1, 7, 12), -0.507, -0.026),  # the same authors 2014: Bentur et al. 2009
    ],
)
def test_the_interval_of_the_difference_is_the_published_one(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    estimate = accuracy_difference(*answers(*counts))
    assert estimate.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (round(estimate.low, 4), round(estimate.high, 4)) == pytest.approx((low, high), abs=5.1e-4)


@pytest.mark.parametrize("counts", [(40, 10, 0, 0), (10, 20, 20, 5), (0, 3, 4, 0), (9, 0, 0, 1), (1, 0, 0, 0)])
def test_the_interval_where_answers_disagree_or_do_not_vary(counts: tuple[int, int, int, int]) -> None:
    """A negative correlation is Pearson's, a positive one is smaller. Without one it counts as 0."""
    first, second = answers(*counts)
    correlation = 0.0
    if 0 < first.mean() < 1 and 0 < second.mean() < 1:
        correlation = min(np.corrcoef(first, second)[0, 1], 0) if counts[1] else (9 - 5) / 9
    limits = [stats.binomtest(int(row.sum()), len(row)).proportion_ci(method="wilson") for row in (first, second)]
    below = [first.mean() - limits[0].low, second.mean() - limits[1].low]
    above = [limits[0].high - first.mean(), limits[1].high - second.mean()]
    low = np.sqrt(below[0] ** 2 + above[1] ** 2 - 2 * correlation * below[0] * above[1])
    high = np.sqrt(above[0] ** 2 + below[1] ** 2 - 2 * correlation * above[0] * below[1])
    value = first.mean() - second.mean()
    assert accuracy_difference(first, second) == pytest.approx((value, value - low, value + high), abs=1e-12)


@given(counts=counts)
def test_the_difference_the_other_way_round(counts: tuple[int, int, int, int]) -> None:
    first, second = answers(*counts)
    value, low, high = accuracy_difference(first, second)
    assert accuracy_difference(second, first) == pytest.approx((-value, -high, -low), abs=1e-12)
    assert -1 - 1e-12 <= low <= value <= high <= 1 + 1e-12
    assert value == pytest.approx(first.mean() - second.mean(), abs=1e-12)


def test_the_interval_holds_the_true_difference() -> None:
    generator = np.random.default_rng(0)
    tables = generator.multinomial(300, [0.7, 0.1, 0.06, 0.14], 400)
    estimates = [accuracy_difference(*answers(*table)) for table in tables]
    held = sum(estimate.low <= 0.04 <= estimate.high for estimate in estimates)
    assert stats.binom.ppf(0.001, 400, 0.95) <= held <= stats.binom.ppf(0.999, 400, 0.96)


def test_no_image_has_no_difference() -> None:
    nothing = np.empty(0, np.bool_)
    assert accuracy_difference(nothing, nothing) == Estimate(None)
    assert mcnemar(nothing, nothing) == (0, 0, 0, 0, 1.0)


def test_answers_for_other_images_are_refused() -> None:
    first, second = np.ones(3, np.bool_), np.ones(2, np.bool_)
    with pytest.raises(ValueError, match="answers for 3 and 2 images"):
        mcnemar(first, second)
    with pytest.raises(ValueError, match="answers for 3 and 2 images"):
        accuracy_difference(first, second)
