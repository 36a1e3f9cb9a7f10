"""Intervals: against scipy, and against a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from imgclassify.evaluation.intervals import Estimate, bootstrap, mean, student_quantile, wilson


@given(count=st.integers(1, 60_000), share=st.floats(0, 1), level=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_scipys(count: int, share: float, level: float) -> None:
    successes = round(count * share)
    expected = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    value, low, high = wilson(successes, count, level)
    assert value == successes / count
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= value <= high <= 1


def test_wilson_is_that_of_the_paper() -> None:
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, table I, method 3."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, count), (low, high) in published.items():
        estimate = wilson(successes, count)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_students_quantile_is_scipys(level: float) -> None:
    for degrees in [*range(1, 260), 1000, 50_000, 10**7]:
        assert student_quantile(degrees, level) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-10)


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=300).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    value, low, high = mean(np.array(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert value == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)


def test_a_share_of_none_or_all_reaches_the_end() -> None:
    for count in range(1, 300):
        assert wilson(0, count)[:2] == (0, 0)
        assert wilson(count, count)[::2] == (1, 1)


def test_a_figure_is_within_its_interval() -> None:
    """As it is not by the percentiles, if noise can only enlarge it."""
    noise = np.random.default_rng(5).standard_normal(100)
    noise -= noise.mean()
    value, low, high = bootstrap(lambda weights: float(abs(weights @ noise)), 100)
    assert low == value < 1e-12
    assert high > 1


def test_no_interval_is_made_up() -> None:
    assert wilson(0, 0) == mean(np.empty(0)) == bootstrap(np.sum, 0) == Estimate(None)
    assert mean(np.array([0.25])) == Estimate(0.25)
    assert mean(np.array([0.25, np.inf])) == Estimate(np.inf)
    assert bootstrap(lambda weights: float(weights @ [0.25]), 1) == Estimate(0.25)
    assert wilson(1, 1).low == pytest.approx(stats.binomtest(1, 1).proportion_ci(method="wilson").low)
    assert Estimate(0.5, 0.25).to_dict() == {"value": 0.5, "low": 0.25, "high": None}


def test_the_bootstrap_draws_images_with_replacement() -> None:
    values = np.random.default_rng(5).exponential(size=40)
    estimate = bootstrap(lambda weights: float(np.median(np.repeat(values, weights))), 40, resamples=300, seed=7)
    generator = np.random.default_rng(7)
    medians = [np.median(values[generator.integers(0, 40, 40)]) for _ in range(300)]
    assert estimate == (np.median(values), *np.quantile(medians, [0.025, 0.975]))


def test_the_bootstrap_of_a_mean_agrees_with_its_formula() -> None:
    values = np.random.default_rng(5).exponential(size=2000)
    value, low, high = bootstrap(lambda weights: float(weights @ values) / 2000, 2000, resamples=4000)
    expected = mean(values)
    assert value == pytest.approx(expected.value)
    assert (high - low) == pytest.approx(expected.high - expected.low, rel=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(5).random(50)
    once, again, other = (bootstrap(lambda weights: float(weights @ values), 50, seed=seed) for seed in (3, 3, 4))
    assert once == again != other
