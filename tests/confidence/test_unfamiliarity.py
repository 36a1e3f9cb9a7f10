"""Scores of strange images, against literal loops, and on networks of both kinds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.spatial.distance import cosine
from scipy.special import softmax
from scipy.stats import percentileofscore

from imgclassify.catalog import EMBEDDED_MODEL, find_model
from imgclassify.confidence.feature_statistics import find_feature_mean
from imgclassify.confidence.unfamiliarity import (
    fit_familiarity,
    gen_score,
    nci_score,
    neighbour_score,
    percentile,
)
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.runner import ModelRunner, load_runner

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(runner: ModelRunner, images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(probabilities, features, the head's weight for the most probable class)"""
    found = [output.arrays for output in runner.run(images)]
    probabilities = softmax([each[LOGITS] for each in found if each], axis=1)
    features = np.array([each[FEATURES] for each in found if each])
    return probabilities, features, runner.read_head().weight[probabilities.argmax(axis=1)]


def slow_gen(row: list[float], gamma: float, top: int) -> float:
    return math.fsum(p**gamma * (1 - p) ** gamma for p in sorted(row)[::-1][:top])


def slow_nci(h: list[float], w: list[float], mean: list[float], scale: float) -> float:
    offset = [one - other for one, other in zip(h, mean, strict=True)]
    length = math.sqrt(math.fsum(each**2 for each in offset))
    along = math.fsum(one * other for one, other in zip(w, offset, strict=True))
    return -(along / length + scale * math.fsum(map(abs, h)))


@given(arrays(np.float64, st.integers(1, 150), elements=st.floats(0, 1)), st.floats(0.05, 2), st.integers(1, 120))
def test_gen_equals_a_literal_loop(row: np.ndarray, gamma: float, top: int) -> None:
    wanted = slow_gen(row.tolist(), gamma, top)
    assert gen_score(row, gamma, top) == pytest.approx(wanted, rel=1e-9)
    assert gen_score(np.stack([row, row]), gamma, top).tolist() == [gen_score(row, gamma, top)] * 2


def test_gen_grows_from_a_sure_answer_to_an_unsure_one() -> None:
    sure, unsure = np.eye(1000)[3], np.full(1000, 1e-3)
    assert gen_score(sure) == 0
    assert gen_score(0.9 * sure + 0.1 * unsure) < gen_score(0.5 * sure + 0.5 * unsure) < gen_score(unsure)
    assert gen_score(unsure) == pytest.approx(100 * (1e-3 * 0.999) ** 0.1)


def test_gen_of_a_probability_that_rounding_makes_more_than_one_is_a_number() -> None:
    assert gen_score(np.nextafter(np.ones(2, np.float32), np.float32(2))).tolist() == 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_nci_equals_a_literal_loop(seed: int, scale: float) -> None:
    h, w = np.random.default_rng(seed).normal(size=(2, 5, 40)).astype(np.float32)
    mean = np.random.default_rng(seed + 1).normal(size=40)
    wanted = [slow_nci(*map(np.ndarray.tolist, (*pair, mean)), scale) for pair in zip(h, w, strict=True)]
    assert nci_score(h, w, mean, scale).tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert nci_score(h[2], w[2], mean, scale) == pytest.approx(wanted[2], rel=1e-9, abs=1e-12)


def test_features_without_a_direction_have_a_score() -> None:
    mean, weight = np.full(4, 0.5), np.array([1.0, 0, 0, 0])
    assert nci_score(mean, weight, mean, 0.1) == pytest.approx(-0.1 * 2)
    assert nci_score(np.zeros(4), weight, mean, 0.1) == pytest.approx(0.5)  # −w · (−μ) / ‖μ‖
    assert neighbour_score(np.zeros(4), [mean, weight]) == 0
    known = fit_familiarity([mean, weight, np.zeros(4)], [1, 2, 3])
    assert np.isfinite(known.score(np.zeros((2, 4)), [1, 2])).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_the_neighbour_score_equals_scipys_cosine(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    queries, familiar = rng.normal(size=(4, 8)), rng.normal(size=(20, 8)) * rng.uniform(0.1, 9, (20, 1))
    found = neighbour_score(queries, familiar, k)
    for query, score in zip(queries, found, strict=True):
        distances = sorted(cosine(query, each) for each in familiar)
        assert score == pytest.approx(distances[min(k, 20) - 1] - 1, abs=1e-12)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(-1, 10))
def test_the_percentile_equals_scipys_strict_one(familiar: list[int], score: int) -> None:
    ascending = np.sort(np.array(familiar, float))
    assert percentile(score, ascending) == pytest.approx(percentileofscore(familiar, score, kind="strict"))
    assert percentile([score, score], ascending).shape == (2,)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_familiarity_equals_literal_loops(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    features, answers = rng.normal(size=(count, 6)), rng.normal(3, 2, count)
    k = min(10, count - 1)
    own = []
    for index, row in enumerate(features):
        others = [cosine(row, other) - 1 for number, other in enumerate(features) if number != index]
        own.append(sorted(others)[k - 1])
    query, answer = rng.normal(size=6), 1.5
    near = sorted(cosine(query, each) - 1 for each in features)[k - 1]

    spread = np.std(own)
    if spread < 0.02:  # of two images, both are as near to each other, and rounding decides
        return

    def score(answer: float, neighbour: float) -> float:
        return (answer - np.mean(answers)) / np.std(answers) + (neighbour - np.mean(own)) / spread

    known = fit_familiarity(features, answers)
    tolerance = 1e-6 / spread**2  # cosines are float32, and differences of them are divided by their spread
    assert known.score(query, answer) == pytest.approx(score(answer, near), abs=tolerance)
    assert known.scores.tolist() == pytest.approx(sorted(map(score, answers, own)), abs=tolerance)


def test_familiar_images_have_percentiles_of_every_size_and_strange_ones_the_highest() -> None:
    rng = np.random.default_rng(4)
    centre = rng.normal(size=16)
    features, more = rng.normal(centre, 0.5, (2, 500, 16))
    strange = rng.normal(-centre, 0.5, (50, 16))
    known = fit_familiarity(features, rng.normal(size=500))
    usual = percentile(known.score(more, rng.normal(size=500)), known.scores)
    assert np.quantile(usual, [0.25, 0.5, 0.75]) == pytest.approx([25, 50, 75], abs=8)
    assert percentile(known.score(strange, np.zeros(50)), known.scores).tolist() == [100] * 50


@pytest.mark.parametrize(
    ("features", "answers", "message"),
    [
        (np.ones((1, 3)), [1], "at least two images"),
        (np.ones((2, 3)), [1], r"scores \(1,\)"),
        (np.ones(3), [1, 1, 1], r"features are \(3,\)"),
        ([[1, math.nan], [1, 1]], [1, 1], "not finite"),
        ([[1, 1], [1, 1]], [1, math.inf], "not finite"),
    ],
)
def test_what_says_nothing_of_familiar_images_is_refused(features: object, answers: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_familiarity(features, answers)  # type: ignore[arg-type]


def test_no_familiar_image_is_refused() -> None:
    with pytest.raises(ValueError, match="0 familiar features"):
        neighbour_score([1, 2], np.empty((0, 2)))
    with pytest.raises(ValueError, match="number 0"):
        neighbour_score([1, 2], [[1, 2]], 0)
    with pytest.raises(ValueError, match="no scores"):
        percentile(1, np.empty(0))


def test_photographs_are_less_strange_to_the_embedded_model_than_what_shows_nothing() -> None:
    photographs = [Image.open(path) for path in sorted(EXAMPLES.glob("*.jpg"))]
    flat = [Image.new("RGB", (300, 300), colour) for colour in ("black", "white", "grey")]
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8).repeat(8), (300, 19)))
    runner = load_runner(None, outputs=(LOGITS, FEATURES))
    probabilities, features, weights = run(runner, [*photographs, *flat, noise(300, 300), stripes])
    mean = find_feature_mean(find_model(EMBEDDED_MODEL).sha256)
    assert mean is not None
    assert len(photographs) == 3
    scores = nci_score(features, weights, mean)
    assert scores[:3].max() < scores[3:].min()
    scores = gen_score(probabilities)
    assert scores[:3].mean() < scores[3:].mean()


@pytest.mark.parametrize("name", ["ViT", "Swin"])
@pytest.mark.needs_torch
def test_all_scores_are_computed_for_transformers(name: str, tmp_path: Path) -> None:
    from tiny_transformers import save_model  # imports torch

    save_model(name, tmp_path)
    runner = load_runner(tmp_path, outputs=(LOGITS, FEATURES), device="cpu")
    probabilities, features, weights = run(runner, [noise(40, 50, seed=seed) for seed in range(12)])
    assert (features < 0).any()  # no ReLU, unlike in most networks of convolutions
    answers = nci_score(features, weights, features.mean(axis=0), 0)
    known = fit_familiarity(features, answers)
    for scores in (gen_score(probabilities), answers, known.score(features, answers)):
        assert scores.shape == (12,)
        assert np.isfinite(scores).all()
        assert np.ptp(scores) > 0
