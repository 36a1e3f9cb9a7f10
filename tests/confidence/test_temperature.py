"""Temperature scaling, against scipy's log-sum-exp and its minimiser."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax

from imgclassify.confidence.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    log_softmax,
)

FLOATS = st.floats(-1e4, 1e4, width=32)


def draw(seed: int, temperature: float, rows: int = 400, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and a truth that follows the probabilities at a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (rows, classes))
    return logits, (logits / temperature + rng.gumbel(size=logits.shape)).argmax(axis=1)


def nll(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    scaled = np.asarray(logits, float) / temperature
    return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]).sum())


@given(arrays(np.float32, (3, 5), elements=FLOATS), st.floats(0.1, 10))
def test_log_softmax_equals_scipys(logits: np.ndarray, temperature: float) -> None:
    exact = logits.astype(float) / temperature
    wanted = exact - logsumexp(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(log_softmax(logits, temperature), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_log_softmax_is_float64_and_of_any_number_of_dimensions(kind: type) -> None:
    logits = np.array([[[6e4, -6e4, 0]]], kind)
    found = np.exp(log_softmax(logits))
    assert (found.dtype, found.tolist()) == (np.float64, [[[1, 0, 0]]])
    assert log_softmax(logits[0, 0]).shape == (3,)
    assert logits[0, 0, 0] == kind(6e4)  # the argument is not changed


@pytest.mark.parametrize("temperature", [0, -1, np.inf, np.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        log_softmax([1, 2], temperature)


@pytest.mark.parametrize("temperature", [0.3, 0.834, 1, 1.7, 5])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_temperature_has_the_least_nll_by_scipys_minimiser(temperature: float, kind: type) -> None:
    logits, truth = draw(11, temperature)
    logits = logits.astype(kind)
    found = fit_temperature(logits, truth)
    wanted = minimize_scalar(
        lambda inverse: nll(logits, truth, 1 / inverse),
        bounds=(0.01, 100),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert found == pytest.approx(1 / wanted.x, rel=1e-6)
    assert found == pytest.approx(temperature, rel=0.3)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20), st.integers(2, 30))
def test_the_derivative_is_zero_at_the_temperature(seed: int, temperature: float, classes: int) -> None:
    logits, truth = draw(seed, temperature, rows=50, classes=classes)
    found = fit_temperature(logits, truth)
    if MIN_TEMPERATURE < found < MAX_TEMPERATURE:
        probabilities = scipy_softmax(logits / found, axis=1)
        gaps = (probabilities * logits).sum(axis=1) - logits[np.arange(50), truth]
        assert abs(gaps.sum()) < 1e-6 * np.abs(logits).sum()
    for other in (MIN_TEMPERATURE, 0.999 * found, 1.001 * found, MAX_TEMPERATURE):
        if MIN_TEMPERATURE <= other <= MAX_TEMPERATURE:
            assert nll(logits, truth, found) <= nll(logits, truth, other) * (1 + 1e-12)


def test_scaled_logits_have_the_scaled_temperature() -> None:
    logits, truth = draw(5, 1.3)
    assert fit_temperature(logits * 4 + 1e4, truth) == pytest.approx(4 * fit_temperature(logits, truth), rel=1e-9)


def test_more_rows_than_fit_in_a_chunk_count_all() -> None:
    logits, truth = draw(7, 1.4, rows=300, classes=1000)
    parts = [fit_temperature(logits[rows], truth[rows]) for rows in (slice(0, 131), slice(131, None))]
    assert min(parts) < fit_temperature(logits, truth) < max(parts)


def test_answers_that_are_all_right_give_the_least_temperature() -> None:
    logits = draw(3, 1)[0]
    assert fit_temperature(logits, logits.argmax(axis=1)) == MIN_TEMPERATURE
    assert fit_temperature([[1e4, 0]], [0]) == MIN_TEMPERATURE  # the NLL is 0 at a temperature of 1 already
    assert fit_temperature([[2.0, 2.0]], [1]) == 1  # no temperature tells them apart
    assert fit_temperature([[2.0, 2.0], [3, 1]], [1, 0]) == MIN_TEMPERATURE


@pytest.mark.parametrize("gap", [1e-9, 1e-3])
def test_an_answer_that_is_hardly_wrong_gives_a_small_temperature(gap: float) -> None:
    logits, truth = np.array([[0, gap], [9, 0]]), np.array([0, 0])
    found = fit_temperature(logits, truth)
    assert found < 1
    assert all(
        nll(logits, truth, found) <= nll(logits, truth, other) for other in (found * 0.9 + 0.001, found * 1.1)
    )


def test_answers_that_are_all_wrong_give_the_largest_temperature() -> None:
    logits = draw(3, 1)[0]
    assert fit_temperature(logits, logits.argmin(axis=1)) == MAX_TEMPERATURE


def test_logits_without_a_difference_leave_the_temperature_at_one() -> None:
    assert fit_temperature(np.full((4, 3), 2.0), [0, 1, 2, 0]) == 1
    assert fit_temperature(np.arange(4.0)[:, None], [0, 0, 0, 0]) == 1


@pytest.mark.parametrize(
    ("logits", "truth", "message"),
    [
        (np.empty((0, 3)), [], "at least one row"),
        ([[1.0, np.nan]], [0], "not finite"),
        ([[1.0, np.inf]], [0], "not finite"),
        ([[1.0, -np.inf]], [0], "not finite"),
        ([[1.0, 2.0]], [2], r"truth of row 0 is 2, but classes are 0\.\.1"),
        ([[1.0, 2.0]], [-1], "truth of row 0 is -1"),
        ([[1.0, 2.0]], [0.0], "not class indices"),
        ([[1.0, 2.0]], [0, 1], "are needed"),
        ([1.0, 2.0], [0], "are needed"),
    ],
)
def test_what_is_no_labelled_data_is_refused(logits: object, truth: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(np.asarray(logits), truth)


def test_the_memory_does_not_grow_with_the_rows() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(4000, 1000)).astype(np.float32), rng.integers(0, 1000, 4000)
    tracemalloc.start()
    fit_temperature(logits, truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < logits.nbytes / 2
