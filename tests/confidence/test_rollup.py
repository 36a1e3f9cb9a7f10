"""Climbing against a literal slow loop, and what its thresholds promise."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from imgclassify import labels
from imgclassify.confidence.rollup import (
    chain_values,
    climb,
    information,
    lowest_threshold,
    threshold_for_accuracy,
)
from imgclassify.labels import LabelSet
from imgclassify.labels.taxonomy import Taxonomy, wordnet_taxonomy
from imgclassify.labels.tree import load_tree
from imgclassify.results import Answer

IMAGENET = labels.load_labels("imagenet1k")
TAXONOMY = wordnet_taxonomy(IMAGENET)
SEEDS = st.integers(0, 2**32 - 1)
THRESHOLDS = st.floats(0, 1, exclude_min=True)


def few_classes() -> tuple[LabelSet, Taxonomy]:
    """Ten classes, so that hypothesis finds ties and sums of exactly 1."""
    chosen = [207, 208, 151, 281, 285, 1, 2, 817, 555, 971]  # retrievers, Chihuahua, cats, fish, cars, bubble
    own = LabelSet("few", tuple(labels.Label(i, IMAGENET[c].wnid, IMAGENET[c].label) for i, c in enumerate(chosen)))
    return own, wordnet_taxonomy(own)


FEW, FEW_TAXONOMY = few_classes()
FEW_PROBABILITIES = arrays.arrays(np.float32, (7, 10), elements=st.sampled_from([0, 0.125, 0.25, 0.5, 0.75, 1]))


def skewed(seed: int, count: int, classes: int = 1000) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.02), count).astype(np.float32)


def num_classes(answer: Answer) -> int:
    """How many classes the answer leaves open, of TAXONOMY."""
    if answer.kind == "rollup":
        return TAXONOMY.by_key[answer.wnid or ""].num_classes
    return 1 if answer.kind == "leaf" else 1000


def literal_climb(probabilities: NDArray[np.float32], label_set: LabelSet, at_least: float) -> Answer:
    """Climbs node by node over the tree itself, with exact sums."""
    tree = load_tree()
    exact = [Fraction(float(each)) for each in probabilities]
    top = max(range(len(exact)), key=lambda index: (exact[index], -index))
    if exact[top] >= at_least:
        return Answer("leaf", label_set[top].wnid, label_set[top].label, float(exact[top]))
    wnid = label_set[top].wnid or ""
    while tree[wnid].parents:
        wnid = tree[wnid].parents[0]
        wnids = tree.under(wnid)
        under = [label.class_index for label in label_set.labels if label.wnid in wnids]
        total = sum(exact[index] for index in under)
        if tree[wnid].said and len(under) < len(exact) and total >= at_least:
            return Answer("rollup", wnid, tree[wnid].said, min(float(total), 1.0))
    return Answer("unsure", None, None, float(exact[top]))


@given(SEEDS, THRESHOLDS)
def test_climbing_is_a_literal_walk_up_the_tree(seed: int, at_least: float) -> None:
    (probabilities,) = skewed(seed, 1)
    answer = climb(probabilities, TAXONOMY, at_least)
    expected = literal_climb(probabilities, IMAGENET, at_least)
    assert replace(answer, probability=0) == replace(expected, probability=0)
    assert answer.probability == pytest.approx(expected.probability, rel=1e-12)


@given(FEW_PROBABILITIES, st.sampled_from([0.0, 0.125, 0.5, 0.625, 1.0]))
def test_climbing_breaks_ties_by_the_class_index(probabilities: NDArray[np.float32], at_least: float) -> None:
    for row in probabilities:  # eighths: the sums are exact
        assert climb(row, FEW_TAXONOMY, at_least) == literal_climb(row, FEW, at_least)


def test_known_answers() -> None:
    probabilities = np.zeros(1000, np.float32)
    probabilities[[200, 199, 281]] = 0.64, 0.33, 0.03  # Tibetan terrier, Scotch terrier, tabby
    assert climb(probabilities, TAXONOMY, 0.5) == Answer("leaf", "n02097474", "Tibetan terrier", np.float32(0.64))
    answer = climb(probabilities, TAXONOMY, 0.9)
    assert answer == Answer("rollup", "n02092468", "terrier", pytest.approx(0.97))
    assert num_classes(answer) == 26
    assert climb(probabilities, TAXONOMY, 0.99).label == "mammal"
    probabilities[[200, 281, 817]] = 0.34, 0.0, 0.33  # a sports car
    assert climb(probabilities, TAXONOMY, 0.9) == Answer("unsure", None, None, np.float32(0.34))


@pytest.mark.parametrize("at_least", [-0.1, 1.01, math.nan])
def test_a_threshold_out_of_range_is_refused(at_least: float) -> None:
    with pytest.raises(ValueError, match="at_least"):
        climb(np.full(1000, 0.001), TAXONOMY, at_least)
    with pytest.raises(ValueError, match="not 1000 probabilities"):
        climb(np.full(999, 0.001), TAXONOMY, 0.5)


@given(SEEDS, st.sampled_from([np.float32, np.float64, np.float16]))
def test_many_images_at_once_have_the_same_sums_to_the_last_digit(seed: int, dtype: type[np.floating]) -> None:
    probabilities = skewed(seed, 20).astype(dtype)
    truth = np.random.default_rng(seed).integers(0, 1000, 20)
    values = chain_values(probabilities, truth, TAXONOMY)
    for image, row in enumerate(probabilities):
        chain = TAXONOMY.chains[int(row.argmax())]
        assert values.lengths[image] == 1 + len(chain)
        for place, position in enumerate(chain, 1):
            total = values.probabilities[image, place]
            if total <= 1:  # with the sum itself as the threshold, this node or one below it is the answer
                answer = climb(row, TAXONOMY, total)
                assert num_classes(answer) <= TAXONOMY.nodes[position].num_classes
                assert answer.probability >= total
            assert values.is_right[image, place] == (truth[image] in TAXONOMY.nodes[position].class_indices)
            assert values.num_classes[image, place] == TAXONOMY.nodes[position].num_classes
        for at_least in (0.3, 0.8, 1.0):
            place = values.answers(at_least)[image]
            answer = climb(row, TAXONOMY, at_least)
            assert values.num_classes[image, place] == num_classes(answer)
            assert (answer.kind == "unsure") == (place == values.lengths[image])


def is_right(answer: Answer, truth: int) -> bool:
    if answer.kind == "unsure":
        return True
    return FEW[truth].wnid in load_tree().under(answer.wnid or "")


@given(FEW_PROBABILITIES, st.lists(st.integers(0, 9), min_size=7, max_size=7))
def test_an_answer_is_right_exactly_from_the_lowest_threshold_on(
    probabilities: NDArray[np.float32], truth: list[int]
) -> None:
    for row, right, lowest in zip(
        probabilities, truth, lowest_threshold(chain_values(probabilities, truth, FEW_TAXONOMY)), strict=True
    ):
        for at_least in {*np.arange(0, 1.01, 0.125), min(lowest, 1), max(0, np.nextafter(min(lowest, 1.1), -1))}:
            if at_least <= 1:
                assert is_right(climb(row, FEW_TAXONOMY, float(at_least)), right) == (at_least >= lowest)


def test_wrong_shapes_and_truths_are_refused() -> None:
    for truth in ([0] * 6, [0] * 6 + [10], [-1] * 7):
        with pytest.raises(ValueError, match="truth"):
            chain_values(np.zeros((7, 10)), truth, FEW_TAXONOMY)
    with pytest.raises(ValueError, match="10 classes"):
        chain_values(np.zeros((7, 9)), [0] * 7, FEW_TAXONOMY)
    assert chain_values(np.zeros((0, 10)), [], FEW_TAXONOMY).lengths.shape == (0,)


@pytest.mark.parametrize(
    ("count", "accuracy", "place"),
    [
        (19, 0.95, 19),
        (20, 0.95, 20),
        (18, 0.95, None),
        (99, 0.95, 95),
        (100, 0.95, 96),
        (9, 0.9, 9),
        (8, 0.9, None),
    ],
)
def test_the_quantile_is_that_of_n_plus_1(count: int, accuracy: float, place: int | None) -> None:
    lowest = np.random.default_rng(0).permutation(np.arange(1, count + 1) / 1000)
    expected = place / 1000 if place else math.inf
    assert threshold_for_accuracy(lowest, accuracy) == expected


@pytest.mark.parametrize("accuracy", [0, 1, -1, 95, math.nan])
def test_an_accuracy_out_of_range_is_refused(accuracy: float) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        threshold_for_accuracy(np.zeros(10), accuracy)


def test_the_threshold_keeps_its_promise_on_new_images() -> None:
    """Over many splits the mean accuracy is between a and a + 1 / (n + 1)."""
    rng = np.random.default_rng(5)
    probabilities = skewed(5, 4000, 10)
    # Overconfident: the truth comes from flattened probabilities.
    flat = np.sqrt(probabilities) / np.sqrt(probabilities).sum(axis=1, keepdims=True)
    truth = (flat.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    values = chain_values(probabilities, truth, FEW_TAXONOMY)
    lowest = lowest_threshold(chain_values(probabilities, truth, FEW_TAXONOMY))
    accuracies = []
    for _ in range(100):
        order = rng.permutation(4000)
        threshold = threshold_for_accuracy(lowest[order[:200]], 0.9)
        places = values.answers(threshold)
        accuracies.append(values.is_right[np.arange(4000), places][order[200:]].mean())
    assert 0.89 < float(np.mean(accuracies)) < 0.92


def test_information_is_in_bits() -> None:
    bits = information(np.array([1, 500, 125, 1000]), 1000)
    np.testing.assert_allclose(bits, [math.log2(1000), 1, 3, 0], atol=1e-12)
