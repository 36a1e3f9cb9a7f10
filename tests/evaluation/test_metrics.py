"""The figures of an evaluation: against scikit-learn, and against their definitions written out in fractions."""

from __future__ import annotations

import itertools
import tracemalloc
from fractions import Fraction
from statistics import mean as exact_mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from imgclassify.evaluation.intervals import Estimate, mean, wilson
from imgclassify.evaluation.metrics import (
    accuracy,
    accuracy_above,
    aurc,
    balanced_accuracy,
    class_figures,
    coverage_at,
    ece,
    ece_equal_mass,
    largest_confusions,
    mean_loss,
    reliability_bins,
)

EDGES = [edge / 15 for edge in range(16)]
NEXT_TO_EDGES = [float(np.nextafter(edge, side)) for edge in EDGES for side in (0, 1)]
confidences = st.one_of(st.sampled_from(EDGES), st.sampled_from(NEXT_TO_EDGES), st.floats(0, 1))
answers = st.lists(st.tuples(confidences, st.booleans()), min_size=1, max_size=40)
few_answers = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=6)


def arrays(answers: list[tuple[float, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([row[0] for row in answers], np.float64), np.array([row[1] for row in answers], np.bool_)


def simulated(count: int, error: float = 0.0, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A classifier whose confidence is too high by `error`."""
    generator = np.random.default_rng(seed)
    confidence = generator.beta(3, 1, count)
    return confidence, generator.random(count) < confidence - error


# ECE -----------------------------------------------------------------------------------------------------------


def guos_error(answers: list[tuple[float, bool]], bins: int) -> Fraction:
    """Formula 3 of Guo et al. 2017, with the comparisons of the authors' code."""
    total = Fraction(0)
    for low, high in itertools.pairwise([edge / bins for edge in range(bins + 1)]):
        inside = [row for row in answers if low < row[0] <= high or row[0] == low == 0]
        if inside:
            right = exact_mean(Fraction(row[1]) for row in inside)
            confident = exact_mean(Fraction(row[0]) for row in inside)
            total += Fraction(len(inside), len(answers)) * abs(right - confident)
    return total


@given(answers=answers, bins=st.sampled_from([1, 2, 10, 15]))
def test_ece_is_guos(answers: list[tuple[float, bool]], bins: int) -> None:
    estimate = ece(*arrays(answers), bins, resamples=5)
    assert estimate.value == pytest.approx(float(guos_error(answers, bins)), abs=1e-12)


@pytest.mark.parametrize("edge", range(16))
def test_a_confidence_on_an_edge_is_in_the_bin_below(edge: int) -> None:
    bins = reliability_bins(np.array([edge / 15]), np.array([True]))
    assert [row.count for row in bins].index(1) == max(edge - 1, 0)
    if edge < 15:
        bins = reliability_bins(np.array([np.nextafter(edge / 15, 1)]), np.array([True]))
        assert [row.count for row in bins].index(1) == edge


def test_the_edges_of_15_bins_are_numpys() -> None:
    rows = reliability_bins(np.array([0.5]), np.array([True]))
    assert [row.low for row in rows] == np.linspace(0, 1, 16)[:-1].tolist()
    assert [row.high for row in rows] == np.linspace(0, 1, 16)[1:].tolist()


def test_a_certain_answer_counts() -> None:
    """As it does not in torchmetrics 1.9 (its issue 3510)."""
    assert ece(np.array([1.0, 1.0]), np.array([True, False])).value == 0.5
    assert ece(np.array([0.0, 1.0]), np.array([False, True])).value == 0


def test_a_rounded_sum_of_probabilities_is_in_the_last_bin() -> None:
    assert reliability_bins(np.array([np.nextafter(1, 2)]), np.array([True]))[-1].count == 1


@given(answers=answers, bins=st.integers(1, 6), equal_mass=st.booleans())
def test_the_bins_add_up_to_the_error(answers: list[tuple[float, bool]], bins: int, equal_mass: bool) -> None:
    confidence, correct = arrays(answers)
    rows = reliability_bins(confidence, correct, bins, equal_mass=equal_mass)
    error = sum(row.count / len(answers) * abs(row.accuracy - row.confidence) for row in rows if row.count)
    expected = (ece_equal_mass if equal_mass else ece)(confidence, correct, bins, resamples=3).value
    assert error == pytest.approx(expected, abs=1e-12)
    assert sum(row.count for row in rows) == len(answers)
    assert all(row.low - 1e-15 <= row.confidence <= row.high + 1e-15 for row in rows if row.count)


@given(bins=st.integers(1, 7), share=st.integers(1, 6), seed=st.integers(0, 99))
def test_bins_of_equal_mass_are_consecutive_and_equal(bins: int, share: int, seed: int) -> None:
    confidence, correct = simulated(bins * share, seed=seed)
    rows = reliability_bins(confidence, correct, bins, equal_mass=True)
    parts = np.split(np.sort(confidence), bins)
    assert [(row.low, row.high, row.count) for row in rows] == [(part[0], part[-1], share) for part in parts]


@given(answers=answers, bins=st.integers(1, 15), seed=st.integers(0, 99))
def test_the_order_of_images_does_not_matter(answers: list[tuple[float, bool]], bins: int, seed: int) -> None:
    confidence, correct = arrays(answers)
    order = np.random.default_rng(seed).permutation(len(answers))
    for figure in (ece, ece_equal_mass):
        value = figure(confidence, correct, bins, resamples=2).value
        assert figure(confidence[order], correct[order], bins, resamples=2).value == pytest.approx(value, abs=1e-12)
    value = aurc(confidence, correct, resamples=2).value
    assert aurc(confidence[order], correct[order], resamples=2).value == pytest.approx(value, abs=1e-12)


def test_equal_confidences_share_a_bin() -> None:
    confidence, correct = np.array([0.1] + [0.5] * 8 + [0.9]), np.arange(10) % 2 == 0
    assert [row.count for row in reliability_bins(confidence, correct, 5, equal_mass=True)] == [1, 8, 1]


@pytest.mark.parametrize("error", [0.0, 0.02, 0.1])
def test_the_interval_holds_the_true_calibration_error(error: float) -> None:
    """The percentiles of resamples do not for a calibrated classifier, not once."""
    confidence = np.random.default_rng(1).beta(3, 1, 1_000_000)
    bins = np.ceil(confidence * 15).astype(int)
    gaps = confidence - (confidence - error).clip(0)
    true = np.abs(np.bincount(bins, gaps)).sum() / len(confidence)
    estimates = [ece(*simulated(1000, error, seed), resamples=200) for seed in range(60)]
    assert all(0 <= estimate.low <= estimate.value <= estimate.high <= 1 for estimate in estimates)
    held = sum(estimate.low <= true <= estimate.high for estimate in estimates)
    assert held >= stats.binom.ppf(0.001, 60, 0.93)
    assert np.mean([estimate.high - estimate.low for estimate in estimates]) < 0.07


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_interval_of_ece_written_out(error: float) -> None:
    confidence, correct = simulated(200, error)
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order]
    bins = np.ceil(confidence * 15)

    def error_of(drawn: NDArray[np.int64], closed: dict[float, float]) -> float:
        gaps = correct[drawn] - confidence[drawn] - np.array([closed.get(number, 0) for number in bins[drawn]])
        return sum(abs(gaps[bins[drawn] == number].sum()) for number in set(bins)) / 200

    closed = {}
    for number in set(bins):
        inside = bins == number
        gap = (correct[inside] - confidence[inside]).mean()
        if abs(gap) <= 1.959964 * np.sqrt((confidence[inside] * (1 - confidence[inside])).sum()) / inside.sum():
            closed[number] = gap
    everything = np.arange(200)
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, 200, 200) for _ in range(60)]
    as_they_are = [error_of(drawn, {}) for drawn in draws]
    with_closed = [error_of(drawn, closed) for drawn in draws]
    value = error_of(everything, {})
    low = max(0, value - (np.quantile(with_closed, 0.975) - error_of(everything, closed)))
    high = value + np.quantile(as_they_are, 0.975) - np.mean(as_they_are)
    assert closed
    assert ece(confidence, correct, resamples=60) == pytest.approx((value, low, high), abs=1e-12)


def by_confidence(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    order = np.argsort(-confidence)
    return confidence[order], correct[order]


# AURC, coverage -------------------------------------------------------------------------------------------------


def geifmans_area(correct: list[bool]) -> Fraction:
    """The mean of the selective risks of the first 1, 2, … N images, in the order given."""
    return exact_mean(Fraction(correct[:count].count(False), count) for count in range(1, len(correct) + 1))


@given(answers=few_answers)
def test_the_area_is_the_mean_over_all_orders_of_equal_images(answers: list[tuple[float, bool]]) -> None:
    orders = [
        order
        for order in itertools.permutations(answers)
        if all(first[0] >= second[0] for first, second in itertools.pairwise(order))
    ]
    expected = exact_mean(geifmans_area([row[1] for row in order]) for order in orders)
    assert aurc(*arrays(answers), resamples=3).value == pytest.approx(float(expected), abs=1e-12)


@given(right=st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_area_without_equal_images(right: list[bool]) -> None:
    confidence = np.linspace(1, 0.1, len(right))
    assert aurc(confidence, np.array(right), resamples=3).value == pytest.approx(
        float(geifmans_area(right)), abs=1e-12
    )


def test_the_interval_of_the_area_is_that_of_redrawn_images() -> None:
    confidence, correct = by_confidence(*simulated(300))
    confidence = confidence.round(2)
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(50):
        drawn = generator.integers(0, 300, 300)
        areas.append(aurc(confidence[drawn], correct[drawn], resamples=1).value)
    estimate = aurc(confidence, correct, resamples=50)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=1e-12)


@given(answers=answers, target=st.sampled_from([0.5, 0.75, 0.9, 0.95, 1.0]))
def test_coverage_is_the_largest_of_any_threshold(answers: list[tuple[float, bool]], target: float) -> None:
    best: tuple[int, float | None] = (0, None)
    for threshold in {row[0] for row in answers}:
        answered = [row[1] for row in answers if row[0] >= threshold]
        if Fraction(sum(answered), len(answered)) >= Fraction(str(target)):
            best = max(best, (len(answered), threshold), key=lambda pair: pair[0])
    coverage = coverage_at(*arrays(answers), target, resamples=3)
    assert (coverage.share.value, coverage.threshold) == (best[0] / len(answers), best[1])


def test_nothing_can_be_answered() -> None:
    share, threshold = coverage_at(np.array([0.9, 0.8]), np.array([False, False]), 0.95)
    assert share == Estimate(0, 0, 0)
    assert threshold is None


def test_the_interval_of_the_coverage_is_that_of_redrawn_images() -> None:
    confidence, correct = by_confidence(*simulated(200))
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        drawn = generator.integers(0, 200, 200)
        shares.append(coverage_at(confidence[drawn], correct[drawn], 0.9, resamples=1).share.value)
    share = coverage_at(confidence, correct, 0.9, resamples=50).share
    assert (share.low, share.high) == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=1e-12)


def test_what_is_answered_above_thresholds() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    rows = accuracy_above(confidence, correct, [0, 0.5, 0.95])
    assert [(row.threshold, row.count) for row in rows] == [(0, 4), (0.5, 3), (0.95, 0)]
    assert [row.answered for row in rows] == [wilson(4, 4), wilson(3, 4), wilson(0, 4)]
    assert [row.accuracy for row in rows] == [wilson(2, 4), wilson(2, 3), Estimate(None)]


# Classes --------------------------------------------------------------------------------------------------------


labels = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=50)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(labels=labels)
def test_balanced_accuracy_is_scikit_learns(labels: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(labels).T
    estimate = balanced_accuracy(truth, truth == predicted)
    assert estimate.value == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)


@pytest.mark.parametrize(("size", "recall"), [(1, 0.8), (3, 0.8), (30, 0.95)])
def test_the_interval_holds_the_true_balanced_accuracy(size: int, recall: float) -> None:
    """Even with one image of each class, where the bootstrap's is too narrow, or empty if drawn by class."""
    truth = np.repeat(np.arange(100), size)
    generator = np.random.default_rng(4)
    recalls = generator.beta(10 * recall, 10 * (1 - recall), 100)
    estimates = [balanced_accuracy(truth, generator.random(len(truth)) < recalls[truth]) for _ in range(300)]
    held = sum(estimate.low <= recalls.mean() <= estimate.high for estimate in estimates)
    assert stats.binom.ppf(0.001, 300, 0.95) <= held <= stats.binom.ppf(0.999, 300, 0.97)


def test_balanced_accuracy_of_classes_alike_has_wilsons_interval() -> None:
    expected = wilson(160, 200)
    estimate = balanced_accuracy(np.arange(200) % 2, np.arange(200) % 10 > 1)
    assert estimate.value == expected.value
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_balanced_accuracy_of_one_image_a_class_has_almost_wilsons_interval() -> None:
    value, low, high = balanced_accuracy(np.arange(200), np.arange(200) % 20 > 0)
    expected = wilson(190, 200)
    assert value == 0.95
    assert high - low == pytest.approx(expected.high - expected.low, rel=0.15)


def test_balanced_accuracy_without_mistakes_is_not_certain() -> None:
    value, low, high = balanced_accuracy(np.arange(30) % 3, np.ones(30, np.bool_))
    assert (value, high) == (1, 1)
    assert low == pytest.approx(wilson(30, 30).low, abs=1e-12)


@given(labels=labels)
def test_the_figures_of_classes_are_scikit_learns(labels: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(labels).T
    expected = precision_recall_fscore_support(truth, predicted, labels=range(6), zero_division=0)
    for figures, precision, recall, f1, count in zip(
        class_figures(truth, predicted, 6), *map(np.ndarray.tolist, expected), strict=True
    ):
        assert figures.count == count == (truth == figures.class_id).sum()
        assert figures.predicted == (predicted == figures.class_id).sum()
        assert figures.precision.value == (pytest.approx(precision, abs=1e-12) if figures.predicted else None)
        assert figures.recall.value == (pytest.approx(recall, abs=1e-12) if count else None)
        assert figures.f1.value == (pytest.approx(f1, abs=1e-12) if count else None)


def test_the_intervals_of_a_class_are_wilsons() -> None:
    # 6 hits, 2 missed, 3 wrongly said to be of the class.
    truth, predicted = np.array([0] * 8 + [1] * 3), np.array([0] * 6 + [1] * 2 + [0] * 3)
    figures = class_figures(truth, predicted, 2)[0]
    assert figures.recall == wilson(6, 8)
    assert figures.precision == wilson(6, 9)
    jaccard = wilson(6, 11)
    assert figures.f1 == pytest.approx([2 * share / (1 + share) for share in jaccard])
    assert figures.f1.value == pytest.approx(2 * 6 / (8 + 9))


def test_the_interval_of_f1_holds_the_true_one_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        truth = rng.random(200) < 0.3
        predicted = np.where(rng.random(200) < 0.8, truth, ~truth)
        _, low, high = class_figures(1 - truth.astype(np.int64), 1 - predicted.astype(np.int64), 2)[0].f1
        expected = 2 * 0.24 / (0.3 + 0.38)  # P(hit) 0.3 · 0.8, P(said) 0.24 + 0.7 · 0.2
        held += low <= expected <= high
    assert 0.91 <= held / 300 <= 0.99


def test_a_prediction_of_no_class_of_the_truth_is_a_mistake() -> None:
    figures = class_figures(np.array([0, 0, 1]), np.array([0, 7, -1]), 2)
    values = [(*each[:3], each.precision.value, each.recall.value, each.f1.value) for each in figures]
    assert values == [(0, 2, 1, 1.0, 0.5, 2 / 3), (1, 1, 0, None, 0.0, 0.0)]
    with pytest.raises(ValueError, match=r"The ids of the truth are 0\.\.2, of 2 classes"):
        class_figures(np.array([0, 2]), np.array([0, 0]), 2)


@given(labels=labels, count=st.integers(0, 20))
def test_the_largest_confusions_are_those_of_the_confusion_matrix(
    labels: list[tuple[int, int]], count: int
) -> None:
    truth, predicted = np.array(labels).T
    matrix = confusion_matrix(truth, predicted, labels=range(6))
    cells = [(row, column, matrix[row, column]) for row, column in np.ndindex(6, 6) if row != column]
    cells = sorted((cell for cell in cells if cell[2]), key=lambda cell: (-cell[2], cell[0], cell[1]))
    assert largest_confusions(truth, predicted, count) == cells[:count]


@given(count=st.integers(2, 40), classes=st.integers(3, 6), seed=st.integers(0, 999))
def test_the_losses_are_scikit_learns(count: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), count)
    truth = generator.integers(0, classes, count)
    nll = -np.log(probabilities[np.arange(count), truth])
    brier = ((probabilities - np.eye(classes)[truth]) ** 2).sum(axis=1)
    expected = log_loss(truth, probabilities, labels=range(classes))
    assert mean_loss(nll).value == pytest.approx(expected, abs=1e-12)
    expected = brier_score_loss(truth, probabilities, labels=range(classes), scale_by_half=False)
    assert mean_loss(brier).value == pytest.approx(expected, abs=1e-12)


def test_no_interval_of_a_loss_reaches_below_zero() -> None:
    losses = np.array([0.0] * 30 + [1.0])
    assert mean(losses).low < 0  # type: ignore[operator]
    assert mean_loss(losses) == mean(losses)._replace(low=0.0)
    assert mean_loss(losses[-1:]) == Estimate(1.0)


# All ------------------------------------------------------------------------------------------------------------


def test_no_image_has_no_figure() -> None:
    confidence, correct, truth = np.empty(0), np.empty(0, np.bool_), np.empty(0, np.int64)
    assert accuracy(correct) == balanced_accuracy(truth, correct) == mean_loss(confidence) == Estimate(None)
    assert ece(confidence, correct) == ece_equal_mass(confidence, correct) == Estimate(None)
    assert aurc(confidence, correct) == Estimate(None)
    assert coverage_at(confidence, correct, 0.95) == (Estimate(None), None)
    assert accuracy_above(confidence, correct, [0.5]) == [(0.5, 0, Estimate(None), Estimate(None))]
    assert [row.count for row in reliability_bins(confidence, correct, 2)] == [0, 0]
    assert reliability_bins(confidence, correct, equal_mass=True) == largest_confusions(truth, truth, 3) == []
    assert class_figures(truth, truth, 1) == [(0, 0, 0, *[Estimate(None)] * 3)]


def test_one_image_has_no_interval_by_resampling() -> None:
    confidence, correct, truth = np.array([0.75]), np.array([True]), np.array([4])
    assert ece(confidence, correct) == ece_equal_mass(confidence, correct) == Estimate(0.25)
    assert mean_loss(confidence) == Estimate(0.75)
    assert balanced_accuracy(truth, correct) == Estimate(1)
    assert aurc(confidence, correct) == Estimate(0)
    assert coverage_at(confidence, correct, 0.95) == (Estimate(1), 0.75)


@pytest.mark.parametrize("confidence", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(confidence: float) -> None:
    given, correct = np.array([0.5, confidence]), np.array([True, False])
    for figure in (ece, ece_equal_mass, reliability_bins, aurc):
        with pytest.raises(ValueError, match=f"confidence of image 1 must be in 0..1, but it is {confidence}"):
            figure(given, correct)
    with pytest.raises(ValueError, match="must be in"):
        coverage_at(given, correct, 0.9)
    with pytest.raises(ValueError, match="must be in"):
        accuracy_above(given, correct, [0.5])
    with pytest.raises(ValueError, match="The loss of image 1 is NaN"):
        mean_loss(np.array([0, np.nan]))


def test_the_figures_of_many_images_take_little_memory() -> None:
    confidence, correct = simulated(50_000)
    truth = np.random.default_rng(2).integers(0, 1000, 50_000)
    predicted = np.where(correct, truth, (truth + 1) % 1000)
    tracemalloc.start()
    try:
        for figure in (ece, ece_equal_mass, aurc):
            figure(confidence, correct, resamples=10)
        coverage_at(confidence, correct, 0.95, resamples=10)
        balanced_accuracy(truth, correct)
        reliability_bins(confidence, correct)
        class_figures(truth, predicted, 1000)
        largest_confusions(truth, predicted, 20)
        accuracy_above(confidence, correct, np.linspace(0, 1, 21).tolist())
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
