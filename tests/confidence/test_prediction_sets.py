"""Prediction sets, against MAPIE, literal loops and the coverage that they promise."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import RAPSConformityScore
from scipy.stats import binom
from sklearn.base import BaseEstimator, ClassifierMixin

from imgclassify.confidence.prediction_sets import (
    conformal_quantile,
    lac_scores,
    lac_set,
    raps_scores,
    raps_set,
)

PENALTY, K_REG = 0.01, 5
KINDS = ["lac", "raps"]


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose answers are the rows that it gets."""

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes

    def fit(self, _rows: Any, _truth: Any) -> Given:
        self.classes_ = np.arange(self.classes)
        return self

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return rows.argmax(axis=1)


def draw(seed: int, rows: int, classes: int, spread: float = 2) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and a truth that follows them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (rows, classes))
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), truth


def scores_of(kind: str, probabilities: np.ndarray, truth: Any) -> np.ndarray:
    if kind == "lac":
        return lac_scores(probabilities, truth)
    return raps_scores(probabilities, truth, PENALTY, K_REG)


def set_of(kind: str, probabilities: np.ndarray, quantile: float) -> np.ndarray:
    return lac_set(probabilities, quantile) if kind == "lac" else raps_set(probabilities, quantile, PENALTY, K_REG)


def slow_raps(row: list[float], label: int, penalty: float, k_reg: int) -> float:
    """The score of Angelopoulos et al. with u = 1: ρ + π + λ (o − k)⁺, by comparing with each class."""
    more = [other for other in range(len(row)) if (-row[other], other) < (-row[label], label)]
    rho, rank = math.fsum(row[other] for other in more), len(more) + 1
    return rho + row[label] + penalty * max(rank - k_reg, 0)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_lac_sets_equal_mapies(coverage: float) -> None:
    probabilities, truth = draw(1, 700, 12)
    mapie = SplitConformalClassifier(
        Given(12).fit(None, None), confidence_level=coverage, conformity_score="lac", prefit=True
    )
    mapie.conformalize(probabilities[:200], truth[:200])
    wanted = mapie.predict_set(probabilities[200:])[1][:, :, 0]
    quantile = conformal_quantile(lac_scores(probabilities[:200], truth[:200]), coverage)
    assert quantile == pytest.approx(mapie._mapie_classifier.conformity_score_function_.quantiles_[0], abs=1e-15)
    for row, mask in zip(probabilities[200:], wanted, strict=True):
        members = np.flatnonzero(mask).tolist() or [int(row.argmax())]
        assert sorted(lac_set(row, quantile).tolist()) == members


def test_raps_scores_equal_mapies_before_it_randomises_them() -> None:
    probabilities, truth = draw(2, 300, 15)
    sums, ranks = RAPSConformityScore.get_true_label_cumsum_proba(truth, probabilities, np.arange(15))
    wanted = RAPSConformityScore._regularize_conformity_score(np.array([K_REG]), PENALTY, sums, ranks)
    np.testing.assert_allclose(raps_scores(probabilities, truth, PENALTY, K_REG), wanted[:, 0, 0], rtol=1e-14)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_raps_sets_equal_mapies_at_the_same_quantile(coverage: float) -> None:
    """MAPIE's quantile is of randomised scores. Its sets hold a class beyond the quantile unless told not to."""
    probabilities, truth = draw(3, 900, 12)
    mapie = SplitConformalClassifier(
        Given(12).fit(None, None), confidence_level=coverage, conformity_score="raps", prefit=True, random_state=4
    )
    mapie.conformalize(probabilities[:400], truth[:400])
    params = {"include_last_label": False}
    wanted = mapie.predict_set(probabilities[400:], conformity_score_params=params)[1][:, :, 0]
    score = mapie._mapie_classifier.conformity_score_function_
    quantile, penalty, k_reg = float(score.quantiles_[0]), float(score.lambda_star), int(score.k_star[0])
    assert 0 < quantile < 2
    for row, mask in zip(probabilities[400:], wanted, strict=True):
        assert sorted(raps_set(row, quantile, penalty, k_reg).tolist()) == np.flatnonzero(mask).tolist()


PROBABILITIES = arrays(np.float64, st.integers(1, 12), elements=st.sampled_from([0, 1e-9, 0.1, 0.125, 0.3, 0.7, 1]))


@given(PROBABILITIES, st.floats(0, 1), st.integers(0, 8), st.floats(-0.1, 3))
def test_scores_and_sets_equal_literal_loops(row: np.ndarray, penalty: float, k_reg: int, quantile: float) -> None:
    values = row.tolist()
    labels = range(len(values))
    raps = [slow_raps(values, label, penalty, k_reg) for label in labels]
    rows = np.tile(row, (len(values), 1))
    assert raps_scores(rows, labels, penalty, k_reg).tolist() == pytest.approx(raps, rel=1e-13)
    assert lac_scores(rows, labels).tolist() == [1 - value for value in values]
    ranked = sorted(labels, key=lambda label: (-values[label], label))
    wanted = [label for label in ranked if 1 - values[label] <= quantile] or ranked[:1]
    assert lac_set(row, quantile).tolist() == wanted
    if min(abs(score - quantile) for score in raps) > 1e-9:  # else rounding decides
        wanted = [label for label in ranked if raps[label] <= quantile] or ranked[:1]
        assert raps_set(row, quantile, penalty, k_reg).tolist() == wanted


@given(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.floats(0, 1, width=32)),
    st.data(),
    st.sampled_from(KINDS),
)
def test_a_set_holds_the_truth_if_its_score_is_not_above_the_quantile(
    rows: np.ndarray, data: st.DataObject, kind: str
) -> None:
    truth = data.draw(arrays(np.int64, len(rows), elements=st.integers(0, rows.shape[1] - 1)))
    scores = scores_of(kind, rows, truth)
    for quantile in scores:  # the hardest quantile is a score itself, where one bit decides
        for row, label, score in zip(rows, truth, scores, strict=True):
            members = set_of(kind, row, quantile)
            is_best = label == row.argmax()
            assert (label in members) == (score <= quantile or (is_best and len(members) == 1))


@pytest.mark.parametrize("kind", KINDS)
def test_many_classes_need_no_tolerance_either(kind: str) -> None:
    probabilities, truth = draw(8, 300, 1000, spread=0.5)
    scores = scores_of(kind, probabilities, truth)
    for row, label, score in zip(probabilities, truth, scores, strict=True):
        assert label == set_of(kind, row, score)[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_the_truth_is_in_the_set_as_often_as_promised(kind: str, coverage: float) -> None:
    """Over 100 splits. The coverage of a split has a beta distribution with a mean of k / (n + 1), and a binomial
    one around it (Vovk, 2012). The mean lies within 4 standard errors."""
    n, tests = 99, 400
    below, held = [], []
    for seed in range(100):
        probabilities, truth = draw(1000 + seed, n + tests, 20)
        scores = scores_of(kind, probabilities, truth)
        quantile = conformal_quantile(scores[:n], coverage)
        below.append(np.mean(scores[n:] <= quantile))
        pairs = zip(probabilities[n:], truth[n:], strict=True)
        held.append(np.mean([label in set_of(kind, row, quantile) for row, label in pairs]))
    k = math.ceil((n + 1) * Fraction(str(coverage)))
    a, b = k, n + 1 - k
    of_split = a * b / ((a + b) ** 2 * (a + b + 1)) + coverage * (1 - coverage) / tests
    assert abs(np.mean(below) - coverage) < 4 * math.sqrt(of_split / 100)
    # A set that would be empty holds the most probable class, which can only be right more often.
    assert np.mean(below) <= np.mean(held) < coverage + 0.04


def test_the_coverage_of_many_answers_lies_in_its_binomial_interval() -> None:
    probabilities, truth = draw(77, 40_000, 10)
    quantile = conformal_quantile(lac_scores(probabilities[:20_000], truth[:20_000]), 0.9)
    held = int((lac_scores(probabilities[20_000:], truth[20_000:]) <= quantile).sum())
    # The quantile itself is a sample of as many answers, which doubles the variance.
    low, high = (binom.ppf(level, 10_000, 0.9) / 10_000 for level in (0.0001, 0.9999))
    assert low < held / 20_000 < high


@pytest.mark.parametrize(
    ("count", "coverage", "rank"),
    [
        (9, 0.9, 9),
        (9, 0.91, None),
        (99, 0.07, 7),
        (99, 0.57, 57),
        (19, 0.95, 19),
        (18, 0.95, None),
        (4, 0.1, 1),
        (0, 0.5, None),
        (5, 1, None),
    ],
)
def test_the_quantile_is_the_score_of_a_rank(count: int, coverage: float, rank: int | None) -> None:
    """99 and 0.07: in floats 100 · 0.07 is above 7, which would give the 8th."""
    scores = np.random.default_rng(0).permutation(count) + 1.0
    assert conformal_quantile(scores, coverage) == (math.inf if rank is None else rank)
    assert conformal_quantile(scores, np.float64(coverage)) == (math.inf if rank is None else rank)


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 1000))
def test_the_quantile_is_not_below_enough_of_the_scores(scores: list[float], permille: int) -> None:
    coverage = permille / 1000
    quantile = conformal_quantile(scores, coverage)
    wanted = Fraction(permille, 1000) * (len(scores) + 1)
    assert sum(score <= quantile for score in scores) + math.isinf(quantile) >= wanted
    assert math.isinf(quantile) or sum(score < quantile for score in scores) < wanted


def test_an_infinite_quantile_gives_all_classes() -> None:
    row = [0.2, 0.5, 0.2, 0.1]
    assert lac_set(row, math.inf).tolist() == raps_set(row, math.inf, 1, 0).tolist() == [1, 0, 2, 3]


def test_a_set_without_a_class_is_the_most_probable_one() -> None:
    row = [0.2, 0.4, 0.4]
    assert lac_set(row, 0.5).tolist() == raps_set(row, 0.3, 0, 0).tolist() == [1]
    assert lac_set(row, -math.inf).tolist() == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conformal_quantile([0.5], 0), "coverage is 0"),
        (lambda: conformal_quantile([0.5], 1.1), r"coverage is 1\.1"),
        (lambda: conformal_quantile([0.5], math.nan), "coverage is nan"),
        (lambda: conformal_quantile([0.5, math.nan], 0.5), "1 that are not numbers"),
        (lambda: lac_set([0.5, 0.5], math.nan), "quantile is not a number"),
        (lambda: raps_set([0.5, 0.5], 1, -0.1, 1), r"penalty is -0\.1"),
        (lambda: raps_set([0.5, 0.5], 1, math.nan, 1), "penalty is nan"),
        (lambda: raps_scores([[0.5, 0.5]], [0], 0.1, -1), "k_reg is -1"),
        (lambda: raps_scores([[0.5, 0.5]], [2], 0.1, 1), "truth of row 0 is 2"),
        (lambda: lac_scores([[0.5, 0.5]], [-1]), "truth of row 0 is -1"),
        (lambda: lac_scores([0.5, 0.5], [1]), "are needed"),
    ],
)
def test_values_out_of_range_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_no_images_have_no_scores() -> None:
    assert lac_scores(np.empty((0, 3)), []).shape == raps_scores(np.empty((0, 3)), [], 0.1, 1).shape == (0,)
