"""Likely label errors: the same as cleanlab's, and what is found with fewer than all probabilities."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgclassify.evaluation import label_errors
from imgclassify.evaluation.label_errors import find_label_errors

Case = tuple[NDArray[np.int64], NDArray[np.float64]]


def labelled(seed: int, count: int, classes: int, digits: int | None) -> Case:
    """Truth, of which some is wrong, and probabilities. Few digits make many equal ones."""
    generator = np.random.default_rng(seed)
    real = generator.integers(0, classes, count)
    truth = np.where(generator.random(count) < 0.2, generator.integers(0, max(classes - 1, 1), count), real)
    probabilities = generator.dirichlet(np.ones(classes), count) + 2 * np.eye(classes)[real] * generator.random(
        (count, 1)
    )
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return truth, probabilities if digits is None else probabilities.round(digits)


def top(probabilities: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    classes = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    return classes, np.take_along_axis(probabilities, classes, axis=1)


def find(truth: NDArray[np.int64], probabilities: NDArray[np.float64], count: int) -> list[label_errors.LabelError]:
    return find_label_errors(truth, *top(probabilities, count), probabilities[np.arange(len(truth)), truth])


def cleanlabs(truth: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    return find_label_issues(
        truth,
        probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 60),
    classes=st.integers(2, 8),
    digits=st.sampled_from([None, 1, 2]),
)
def test_they_are_cleanlabs(seed: int, count: int, classes: int, digits: int | None) -> None:
    truth, probabilities = labelled(seed, count, classes, digits)
    assume(len(set(truth)) > 1)  # which cleanlab asks for
    expected = cleanlabs(truth, probabilities)
    found = find(truth, probabilities, classes)
    assert {error.image for error in found} == set(expected)
    scores = get_label_quality_scores(truth, probabilities, method="normalized_margin")
    order = [error.image for error in found]
    assert scores[order] == pytest.approx(scores[expected], abs=1e-12)
    for error in found:
        assert error.truth == truth[error.image] != error.suggested
        assert error.truth_probability == probabilities[error.image, error.truth]
        assert error.suggested_probability == probabilities[error.image, error.suggested]


@given(seed=st.integers(0, 10_000), kept=st.integers(1, 3))
def test_fewer_probabilities_find_nothing_else(seed: int, kept: int) -> None:
    """The best classes of an image suffice for most errors. None is made up."""
    truth, probabilities = labelled(seed, 80, 8, None)
    everything = {error.image for error in find(truth, probabilities, 8)}
    assert {error.image for error in find(truth, probabilities, kept)} <= everything


def test_most_errors_are_found_with_five_of_a_hundred_probabilities() -> None:
    truth, probabilities = labelled(1, 3000, 100, None)
    everything, most = find(truth, probabilities, 100), find(truth, probabilities, 5)
    assert len(everything) > 300
    assert len(most) > 0.9 * len(everything)


def test_a_wrong_label_comes_first() -> None:
    truth = np.repeat([0, 1, 2], 20)
    probabilities = np.full((60, 3), 0.1)
    probabilities[np.arange(60), truth] = 0.8
    probabilities[7], probabilities[45] = [0.01, 0.98, 0.01], [0.9, 0.05, 0.05]
    found = find(truth, probabilities, 3)
    assert found == [(7, 0, 1, 0.01, 0.98), (45, 2, 0, 0.05, 0.9)]


def test_confident_classes_among_which_the_most_probable_is_not() -> None:
    """Then cleanlab suggests the most probable class of all. So it is if only the truth is confident beside one."""
    truth = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.95, 0, 0.05], [0.5, 0.45, 0.05]])
    for count in (2, 3):
        assert (3, 2, 0, 0.05, 0.5) in find(truth, probabilities, count)
    assert {error.image for error in find(truth, probabilities, 3)} == set(cleanlabs(truth, probabilities))


@pytest.mark.parametrize("difference", [2e-7, 5e-6])
def test_probabilities_that_hardly_differ_are_equal(difference: float) -> None:
    truth = np.array([0, 0, 1, 1])
    low, high = (1 - difference) / 2, (1 + difference) / 2
    probabilities = np.array([[0.6, 0.4], [low, high], [0.5, 0.5], [0.5, 0.5]])
    found = [error.image for error in find(truth, probabilities, 2)]
    assert found == cleanlabs(truth, probabilities).tolist() == ([1] if difference > 1e-6 else [])


def test_a_threshold_is_reached_by_the_probability_that_all_its_images_have() -> None:
    """Though their mean, rounded, may be larger."""
    probability = next(
        step / 1000 for step in range(600, 999) if np.bincount([0] * 3, [step / 1000] * 3)[0] / 3 > step / 1000
    )
    truth = np.array([1, 1, 1, 0])
    probabilities = np.array([[1 - probability, probability]] * 4)
    found = [error.image for error in find(truth, probabilities, 2)]
    assert found == cleanlabs(truth, probabilities).tolist() == [3]


def test_rows_may_be_padded() -> None:
    truth, probabilities = labelled(3, 50, 4, None)
    classes, values = top(probabilities, 4)
    truth_probability = probabilities[np.arange(50), truth]
    padded = np.pad(classes, ((0, 0), (0, 2)), constant_values=-1), np.pad(values, ((0, 0), (0, 2)))
    found = find_label_errors(truth, classes, values, truth_probability)
    assert found
    assert find_label_errors(truth, *padded, truth_probability) == found


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, probabilities = labelled(3, 50, 4, None)
    found = find(truth, probabilities, 4)
    monkeypatch.setattr(label_errors, "_BLOCK", 7)
    assert find(truth, probabilities, 4) == found


def test_nothing_is_found_in_nothing() -> None:
    nothing = np.empty(0, np.int64), np.empty((0, 5), np.int64), np.empty((0, 5)), np.empty(0)
    assert find_label_errors(*nothing) == []
    one = np.array([3]), np.array([[3, -1]]), np.array([[0.7, 0.0]]), np.array([0.7])
    assert find_label_errors(*one) == []


def test_many_images_take_little_memory_beside_their_arrays() -> None:
    truth, probabilities = labelled(1, 50_000, 20, None)
    classes, values = top(probabilities, 20)
    tracemalloc.start()
    try:
        assert find_label_errors(truth, classes, values, probabilities[np.arange(50_000), truth])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
