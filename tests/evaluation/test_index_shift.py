"""Class indices that count from another number than those of the model are noticed, and others are not."""

from __future__ import annotations

import numpy as np
import pytest

from imgclassify.evaluation.index_shift import describe_index_shift
from imgclassify.evaluation.truth import Truth, TruthClass

PREDICTED = np.random.default_rng(0).integers(1, 9, 200)


def truth_of(name: str) -> Truth:
    return Truth("", (TruthClass((name,), "x", None, frozenset([3]), is_node=False),), (1,))


@pytest.mark.parametrize(("shift", "words"), [(1, "with -1, 100.0 %"), (-1, "with +1, 100.0 %")])
@pytest.mark.parametrize("name", ["3", "003", "3.0"])
def test_indices_that_are_shifted(shift: int, words: str, name: str) -> None:
    assert words in describe_index_shift(PREDICTED, PREDICTED + shift, truth_of(name), 10)


def test_indices_that_are_not_shifted_few_images_and_names() -> None:
    generator = np.random.default_rng(1)
    assert describe_index_shift(PREDICTED, PREDICTED, truth_of("3"), 10) == ""
    assert describe_index_shift(PREDICTED, generator.permutation(PREDICTED), truth_of("3"), 10) == ""
    assert describe_index_shift(PREDICTED[:19], PREDICTED[:19] + 1, truth_of("3"), 10) == ""
    assert describe_index_shift(PREDICTED, PREDICTED + 1, truth_of("tench"), 10) == ""
    half = np.where(generator.random(200) < 0.5, PREDICTED, PREDICTED + 1)
    assert describe_index_shift(PREDICTED, half, truth_of("3"), 10) == ""


def test_two_classes_that_are_swapped_are_not_shifted() -> None:
    predicted = np.arange(200) % 2
    assert describe_index_shift(predicted, 1 - predicted, truth_of("1"), 2) == ""
