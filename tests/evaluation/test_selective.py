"""The area under risk and coverage: against scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc

from imgclassify.evaluation.selective import risk_coverage_area


@given(
    points=st.dictionaries(st.floats(1e-3, 0.999), st.floats(0, 1), max_size=30),
    last=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_the_area_is_scikit_learns(points: dict[float, float], last: float, seed: int) -> None:
    coverage, risk = map(list, zip(*sorted(points.items()), (1.0, last), strict=True))
    expected = auc([0, *coverage], [0, *risk])
    order = np.random.default_rng(seed).permutation(len(risk))
    assert risk_coverage_area(np.array(risk)[order], np.array(coverage)[order]) == pytest.approx(
        expected, abs=1e-12
    )


def test_two_images_of_four_classes() -> None:
    """One is answered rightly at every threshold. The other is wrong as a class, and right one node up (of 2)."""
    risk, coverage = np.array([0.5, 0.0, 0.0]), np.array([1.0, 0.75, 0.0])
    assert risk_coverage_area(risk, coverage) == 0.25 * 0.5 / 2


def test_to_roll_up_is_better_than_to_refuse() -> None:
    """The same images: where the second one is refused, its coverage is 0 in place of a half."""
    rolled_up = risk_coverage_area(np.array([0.5, 0.0]), np.array([1.0, 0.75]))
    refused = risk_coverage_area(np.array([0.5, 0.0]), np.array([1.0, 0.5]))
    assert rolled_up == refused / 2


@pytest.mark.parametrize(("coverage", "said"), [([0.2, 0.9], r"0\.9"), ([], "missing"), ([99.0], r"99\.0")])
def test_a_curve_without_its_end_has_no_area(coverage: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=f"largest coverage must be 1, that of threshold 0, but it is {said}"):
        risk_coverage_area(np.zeros(len(coverage)), np.array(coverage))
