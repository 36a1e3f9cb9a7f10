"""The probe: what scikit-learn gives for the same features, folded, cross-validated and repeatable."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from imgclassify.errors import UnavailableError
from imgclassify.training import probe
from imgclassify.training.probe import DEFAULT_STRENGTH, STRENGTHS, assign_folds, fit_probe


def make_features(
    count: int, dimension: int, num_classes: int, *, views: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features like those of a network, of classes that overlap: not negative, of different means and scales."""
    generator = np.random.default_rng(seed)
    classes = np.arange(count) % num_classes
    centres = generator.normal(size=(num_classes, dimension))
    shape = (count, dimension) if views is None else (count, views, dimension)
    around = centres[classes] if views is None else centres[classes][:, None]
    features = around * 0.6 + generator.normal(size=shape)
    features = np.maximum(features * generator.uniform(0.01, 3, dimension) + generator.uniform(0, 9, dimension), 0)
    return features.astype(np.float32), classes


def reference(features: np.ndarray, classes: np.ndarray, strength: float, **fit: Any) -> Any:
    """scikit-learn's own pipeline, in float64, to its last digits."""
    regression = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10)
    return make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), classes, **fit)


def logits(fitted: probe.Probe, features: np.ndarray) -> np.ndarray:
    return features.astype(np.float64) @ fitted.weight.T.astype(np.float64) + fitted.bias


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the regression go on to the last digits, so that the way to the minimum makes no difference."""
    monkeypatch.setattr(probe, "_TOLERANCE", 1e-10)
    monkeypatch.setattr(probe, "_TRIAL_TOLERANCE", 1e-10)
    monkeypatch.setattr(probe, "_MAX_ITERATIONS", 10_000)


# The same classifier ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [20, 500], ids=["more images", "more features"])
@pytest.mark.parametrize("strength", [0.001, 0.1, 10.0])
@pytest.mark.usefixtures("exact")
def test_logits_of_raw_features_are_those_of_scikit_learn(dimension: int, strength: float) -> None:
    features, classes = make_features(120, dimension, 4)
    fitted = fit_probe(features, classes, num_classes=4, groups=range(120), seed=0, strength=strength)
    assert (fitted.weight.dtype, fitted.weight.shape) == (np.float32, (4, dimension))
    assert (fitted.bias.dtype, fitted.bias.shape) == (np.float32, (4,))
    others, _ = make_features(50, dimension, 4, seed=1)
    expected = reference(features, classes, strength).decision_function(others)
    # What is the same for all classes does not count.
    found = logits(fitted, others)
    found += (expected - found).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert fitted.converged
    assert (fitted.strength, fitted.accuracies, fitted.losses) == (strength, {}, {})


@pytest.mark.parametrize("dimension", [20, 500], ids=["more images", "more features"])
@pytest.mark.usefixtures("exact")
def test_two_classes_have_two_rows_and_the_probabilities_of_scikit_learn(dimension: int) -> None:
    features, classes = make_features(80, dimension, 2)
    fitted = fit_probe(features, classes, num_classes=2, groups=range(80), seed=0, strength=0.05)
    others, _ = make_features(50, dimension, 2, seed=1)
    expected = reference(features, classes, 0.05).predict_proba(others)
    np.testing.assert_allclose(softmax(logits(fitted, others), axis=1), expected, atol=1e-5)
    np.testing.assert_array_equal(fitted.weight[0], -fitted.weight[1])


@pytest.mark.parametrize("dimension", [20, 500], ids=["more images", "more features"])
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.usefixtures("exact")
def test_without_a_bias_it_is_scikit_learn_without_an_intercept(dimension: int, num_classes: int) -> None:
    features, classes = make_features(90, dimension, num_classes)
    count = range(90)
    fitted = fit_probe(
        features, classes, num_classes=num_classes, groups=count, seed=0, strength=0.05, has_bias=False
    )
    assert not fitted.bias.any()
    regression = LogisticRegression(C=0.05, max_iter=10_000, tol=1e-10, fit_intercept=False)
    pipeline = make_pipeline(StandardScaler(with_mean=False), regression).fit(features.astype(np.float64), classes)
    others, _ = make_features(50, dimension, num_classes, seed=1)
    np.testing.assert_allclose(softmax(logits(fitted, others), axis=1), pipeline.predict_proba(others), atol=5e-5)


@pytest.mark.usefixtures("exact")
def test_the_views_of_an_image_weigh_as_much_as_one_image() -> None:
    features, classes = make_features(60, 20, 3, views=4)
    fitted = fit_probe(features, classes, num_classes=3, groups=range(60), seed=0, strength=0.03)
    rows, repeated = features.reshape(240, 20), classes.repeat(4)
    expected = reference(rows, repeated, 0.03, logisticregression__sample_weight=np.full(240, 0.25))
    found, wanted = logits(fitted, rows), expected.decision_function(rows)
    found += (wanted - found).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_the_regression_is_at_its_minimum_without_being_told() -> None:
    features, classes = make_features(120, 200, 4)
    fitted = fit_probe(features, classes, num_classes=4, groups=range(120), seed=0, strength=0.1)
    others, _ = make_features(50, 200, 4, seed=1)
    expected = reference(features, classes, 0.1).predict_proba(others)
    np.testing.assert_allclose(softmax(logits(fitted, others), axis=1), expected, atol=1e-4)


def test_many_features_are_computed_with_in_float32_and_hardly_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = make_features(300, 30, 3)
    monkeypatch.setattr(probe, "_LARGE", 300 * 30 - 1)
    monkeypatch.setattr(probe, "_BLOCK", 7)
    dtypes = []
    fit = probe._Data.fit
    monkeypatch.setattr(probe._Data, "fit", lambda self, *how: dtypes.append(self.rows.dtype) or fit(self, *how))
    fitted = fit_probe(features, classes, num_classes=3, groups=range(300), seed=0, strength=0.01)
    assert dtypes == [np.float32]
    expected = reference(features, classes, 0.01).predict_proba(features)
    np.testing.assert_allclose(softmax(logits(fitted, features), axis=1), expected, atol=5e-4)


def test_a_constant_feature_says_nothing_and_breaks_nothing() -> None:
    features, classes = make_features(60, 10, 3)
    without = fit_probe(features, classes, num_classes=3, groups=range(60), seed=0, strength=0.1)
    # A third is not exact in float32, so its mean in float64 may differ from it in the last digit.
    constant = np.concatenate(
        [features, np.full((60, 1), 1 / 3, np.float32), np.zeros((60, 1), np.float32)], axis=1
    )
    fitted = fit_probe(constant, classes, num_classes=3, groups=range(60), seed=0, strength=0.1)
    np.testing.assert_allclose(fitted.weight[:, 10:], 0, atol=1e-6)
    np.testing.assert_allclose(logits(fitted, constant), logits(without, features), atol=1e-5)


# Cross-validation ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("exact")
def test_accuracies_and_losses_are_those_of_scikit_learn_on_the_other_folds() -> None:
    features, classes = make_features(90, 12, 3, seed=3)
    groups = [number // 2 for number in range(90)]
    fitted = fit_probe(features, classes, num_classes=3, groups=groups, seed=7)
    folds = np.array(assign_folds(classes.tolist(), groups, count=5, seed=7))
    rows = StandardScaler().fit_transform(features.astype(np.float64))
    assert len(fitted.losses) >= 3
    for strength, loss in fitted.losses.items():
        found = np.empty((90, 3))
        for fold in range(5):
            regression = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10)
            regression.fit(rows[folds != fold], classes[folds != fold])
            found[folds == fold] = regression.decision_function(rows[folds == fold])
        assert fitted.accuracies[strength] == pytest.approx(np.mean(found.argmax(axis=1) == classes))
        least = minimize_scalar(
            lambda scale: -log_softmax(found * np.exp(scale), axis=1)[np.arange(90), classes].mean(),  # noqa: B023
            bounds=(-4, 4),
            method="bounded",
            options={"xatol": 1e-8},
        )
        assert loss == pytest.approx(least.fun, rel=1e-4)
    assert fitted.strength == min(fitted.losses, key=lambda each: fitted.losses[each])


def test_both_neighbours_of_the_chosen_strength_were_tried_and_are_worse() -> None:
    for seed in range(3):
        features, classes = make_features(60, 200, 3, seed=seed)
        fitted = fit_probe(features, classes, num_classes=3, groups=range(60), seed=seed)
        at = STRENGTHS.index(fitted.strength)
        for other in STRENGTHS[max(0, at - 1) : at + 2]:
            assert fitted.losses[other] >= fitted.losses[fitted.strength]
        # Nothing but the strength is taken from the cross-validation.
        again = fit_probe(features, classes, num_classes=3, groups=range(60), seed=seed, strength=fitted.strength)
        np.testing.assert_array_equal(again.weight, fitted.weight)


def test_near_duplicates_do_not_make_a_probe_look_better() -> None:
    """Images that show nothing of their classes, each twice."""
    generator = np.random.default_rng(0)
    once = generator.normal(size=(60, 300))
    features = np.repeat(once, 2, axis=0).astype(np.float32)
    classes = np.repeat(generator.permutation(np.arange(60) % 2), 2)
    grouped = fit_probe(features, classes, num_classes=2, groups=[n // 2 for n in range(120)], seed=0)
    fooled = fit_probe(features, classes, num_classes=2, groups=range(120), seed=0)
    assert max(grouped.accuracies.values()) < 0.7
    assert min(fooled.accuracies.values()) > 0.8


def test_only_the_image_itself_is_scored() -> None:
    """Images that are easy to tell apart, with views that show nothing."""
    features, classes = make_features(90, 100, 3)
    views = np.random.default_rng(5).normal(size=(90, 3, 100)) * features.std(axis=0) + features.mean(axis=0)
    both = np.concatenate([features[:, None], views.astype(np.float32)], axis=1)
    fitted = fit_probe(both, classes, num_classes=3, groups=range(90), seed=0)
    assert fitted.accuracies[fitted.strength] > 0.95


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=120),
    st.integers(2, 5),
    st.integers(0, 3),
)
def test_folds_never_divide_a_group(images: list[tuple[int, int]], count: int, seed: int) -> None:
    classes, groups = [each for each, _ in images], [group for _, group in images]
    folds = assign_folds(classes, groups, count=count, seed=seed)
    assert all(0 <= fold < count for fold in folds)
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    assert folds == assign_folds(classes, groups, count=count, seed=seed)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_folds_spread_each_class_evenly(count: int) -> None:
    generator = np.random.default_rng(count)
    classes = generator.choice(4, 203, p=[0.6, 0.25, 0.1, 0.05]).tolist()
    folds = assign_folds(classes, range(203), count=count, seed=1)
    for each in range(4):
        numbers = Counter(fold for fold, index in zip(folds, classes, strict=True) if index == each)
        assert max(numbers.values()) - min(numbers.get(fold, 0) for fold in range(count)) <= 1
    sizes = Counter(folds)
    assert max(sizes.values()) - min(sizes.values()) <= 4
    assert folds != assign_folds(classes, range(203), count=count, seed=2)


@pytest.mark.parametrize(
    ("classes", "groups"),
    [([0, 1], [0, 1]), ([0, 0, 0, 1], [0, 1, 2, 3]), ([0, 0, 1, 1], [5, 5, 6, 6])],
    ids=["one each", "one of a class", "one group each"],
)
def test_too_few_images_get_a_usual_strength(classes: list[int], groups: list[int]) -> None:
    features, _ = make_features(len(classes), 6, 2)
    fitted = fit_probe(features, classes, num_classes=2, groups=groups, seed=0)
    assert (fitted.strength, fitted.accuracies) == (DEFAULT_STRENGTH, {})
    assert np.isfinite(fitted.weight).all()


def test_a_rare_class_does_not_hinder_the_others() -> None:
    features, classes = make_features(101, 12, 2)
    classes[100] = 2
    fitted = fit_probe(features, classes, num_classes=3, groups=range(101), seed=0)
    assert len(fitted.accuracies) >= 3
    assert max(fitted.accuracies.values()) > 0.8


# Repeatable, and honest ---------------------------------------------------------------------------------------


def test_the_result_is_the_same_again_and_with_any_number_of_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = make_features(100, 30, 3)
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(probe.devices, "count_cores", lambda cores=cores: cores)
        results.append(fit_probe(features, classes, num_classes=3, groups=range(100), seed=4))
    for other in results[1:]:
        assert other.weight.tobytes() == results[0].weight.tobytes()
        assert other.bias.tobytes() == results[0].bias.tobytes()
        assert other[2:] == results[0][2:]


def test_features_are_not_changed() -> None:
    features, classes = make_features(40, 100, 2)
    before = features.copy()
    features.flags.writeable = False
    fit_probe(features, classes, num_classes=2, groups=range(40), seed=0)
    np.testing.assert_array_equal(features, before)


def test_a_regression_that_does_not_converge_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "_MAX_ITERATIONS", 2)
    features, classes = make_features(100, 30, 3)
    fitted = fit_probe(features, classes, num_classes=3, groups=range(100), seed=0)
    assert not fitted.converged
    [message] = caplog.messages
    assert "failed to converge after 2 iteration" in message
    assert "\n" not in message
    assert capfd.readouterr().err == ""


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.require_sklearn()
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    features, classes = make_features(10, 4, 2)
    with pytest.raises(UnavailableError, match="needs scikit-learn") as caught:
        fit_probe(features, classes, num_classes=2, groups=range(10), seed=0)
    assert caught.value.hint == 'pip install "imgclassify[train]", or pip install scikit-learn'
    monkeypatch.setattr(probe, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs scikit-learn"):
        probe.require_sklearn()


@pytest.mark.parametrize(
    ("shape", "classes", "num_classes"),
    [((4,), [0, 1, 0, 1], 2), ((3, 5), [0, 1, 0, 1], 2), ((4, 5), [0, 2, 0, 2], 3), ((4, 5), [0, 0, 0, 0], 1)],
    ids=["no rows", "too few rows", "a class without images", "one class"],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], classes: list[int], num_classes: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit|each needs an image"):
        fit_probe(np.zeros(shape, np.float32), classes, num_classes=num_classes, groups=range(4), seed=0)
