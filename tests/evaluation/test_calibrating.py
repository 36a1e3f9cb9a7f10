"""The interval of a temperature, and images whose probabilities are known to be right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from imgclassify.confidence.temperature import fit_temperature
from imgclassify.errors import UsageError
from imgclassify.evaluation.calibrating import LabelledLogits, _temperature_interval, learn_calibration

SEEDS = 1000


def draw(seed: int, count: int, temperature: float, *, classes: int = 5) -> LabelledLogits:
    """Logits whose true classes are drawn from their probabilities at this temperature."""
    generator = np.random.default_rng(seed)
    logits = (2 * generator.standard_normal((count, classes))).astype(np.float32)
    shares = np.exp(logits / temperature).cumsum(axis=1)
    truth = (shares < generator.random((count, 1)) * shares[:, -1:]).sum(axis=1)
    return LabelledLogits(logits, truth.astype(np.int64), None)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_interval_holds_the_true_temperature_as_often_as_it_says(temperature: float) -> None:
    hits = 0
    for seed in range(SEEDS):
        data = draw(seed, 300, temperature)
        found = _temperature_interval(data, fit_temperature(data.logits, data.truth))
        assert found.low is not None
        hits += found.low <= temperature <= (np.inf if found.high is None else found.high)
    low, high = binom.interval(0.999, SEEDS, 0.95)
    assert low <= hits <= high


def test_what_is_saved_is_as_good_on_new_images() -> None:
    """The NLL that the cross-validation promises is, in the mean over many draws, the one of images never seen."""
    promised, seen = [], []
    fresh = draw(10_000, 20_000, 1.5)
    logits = fresh.logits.astype(np.float64)
    for seed in range(30):
        report = learn_calibration(draw(seed, 200, 1.5), {}, {}, origin="x", taxonomy=None, head_weight=None)
        scaled = logits / report.calibration.temperature
        log_sums = np.log(np.exp(scaled).sum(axis=1))
        seen.append(float((log_sums - scaled[np.arange(len(scaled)), fresh.truth]).mean()))
        promised.append(report.calibration.figures["nll"]["after"]["value"])
    error = np.std(promised, ddof=1) / len(promised) ** 0.5
    assert abs(np.mean(promised) - np.mean(seen)) < 3.3 * error


def test_a_small_help_is_told_with_an_interval_that_holds_none() -> None:
    """Images of calibrated probabilities: whatever is learned from them, the improvement is not significant."""
    significant = 0
    for seed in range(40):
        report = learn_calibration(draw(seed, 200, 1.0), {}, {}, origin="x", taxonomy=None, head_weight=None)
        assert report.improvement.low is not None
        significant += report.improvement.low > 0
    assert significant <= binom.ppf(0.999, 40, 0.025)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_a_temperature_out_of_range_is_not_called_chance(scale: float) -> None:
    data = draw(0, 50, 1.0)
    with pytest.raises(UsageError, match=r"the best one is not between 0\.01 and 100"):
        learn_calibration(
            data._replace(logits=data.logits * np.float32(scale)),
            {},
            {},
            origin="x",
            taxonomy=None,
            head_weight=None,
        )
    chance = data._replace(truth=data.logits.argmin(axis=1).astype(np.int64))
    with pytest.raises(UsageError, match="no better than chance"):
        learn_calibration(chance, {}, {}, origin="x", taxonomy=None, head_weight=None)


def test_every_right_answer_has_no_temperature() -> None:
    data = draw(0, 50, 1.0)
    right = data._replace(truth=data.logits.argmax(axis=1).astype(np.int64))
    with pytest.raises(UsageError, match="every answer is right"):
        learn_calibration(right, {}, {}, origin="x", taxonomy=None, head_weight=None)
