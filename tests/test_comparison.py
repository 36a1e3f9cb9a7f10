"""The arithmetic of comparing two runs, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgclassify.comparison import MAX_NAMED, Comparison, pair_results
from imgclassify.errors import UnavailableError
from imgclassify.results import ImageFailure, ImageResult, Prediction


def answer(source: str, probabilities: NDArray[np.float64]) -> ImageResult:
    """All classes, most probable first."""
    predictions = tuple(
        Prediction(rank, int(index), None, f"class {index}", float(probabilities[index]))
        for rank, index in enumerate(np.argsort(-probabilities, kind="stable"), start=1)
    )
    return ImageResult(source, "model", 4, 3, predictions)


def failure(source: str) -> ImageResult:
    return ImageResult(source, "model", None, None, (), ImageFailure("corrupt_image", "damaged"))


DAMAGED = {"type": "corrupt_image", "message": "damaged"}


def compared(
    *answers: tuple[ImageResult, ImageResult], shared: dict[int, int] | None = None, max_named: int = MAX_NAMED
) -> Comparison:
    comparison = Comparison({index: index for index in range(7)} if shared is None else shared, max_named)
    for exact, other in answers:
        comparison.add(exact, other)
    return comparison


@given(seed=st.integers(0, 10_000), pictures=st.integers(1, 30), classes=st.integers(2, 7), noise=st.floats(0, 1))
def test_the_numbers_are_numpys(seed: int, pictures: int, classes: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    exact = generator.dirichlet(np.ones(classes), pictures)
    other = (1 - noise) * exact + noise * generator.dirichlet(np.ones(classes), pictures)
    comparison = compared(
        *((answer(f"{index}.jpg", exact[index]), answer(f"{index}.jpg", other[index])) for index in range(pictures))
    )
    changes = np.abs(exact - other).max(axis=1)
    same = exact.argmax(axis=1) == other.argmax(axis=1)
    assert (comparison.compared, comparison.failed) == (pictures, 0)
    assert comparison.agreement == pytest.approx(same.mean())
    assert comparison.largest_change == pytest.approx(changes.max())
    assert comparison.largest_change_source == f"{changes.argmax()}.jpg"
    assert comparison.mean_change == pytest.approx(changes.mean())
    named = [f"{index}.jpg" for index in np.flatnonzero(~same)]
    assert [change.source for change in comparison.changed] == named[:MAX_NAMED]


def test_a_changed_answer_is_named_with_both_labels() -> None:
    comparison = compared((answer("a", np.array([0.6, 0.4])), answer("a", np.array([0.3, 0.7]))))
    [change] = comparison.to_dict()["changed"]
    assert change["source"] == "a"
    assert (change["reference"]["label"], change["reference"]["probability"]) == ("class 0", 0.6)
    assert (change["other"]["label"], change["other"]["probability"]) == ("class 1", 0.7)


def test_a_failed_image_is_counted_and_left_out() -> None:
    good = answer("good", np.array([0.9, 0.1]))
    comparison = compared(
        (failure("a"), failure("a")),
        (good, good),
        (answer("b", np.array([0.2, 0.8])), failure("b")),
        (failure("c"), answer("c", np.array([0.2, 0.8]))),
    )
    assert comparison.to_dict() == {
        "compared": 1,
        "failed": 3,
        "failed_once": 2,
        "failures": [
            {"source": "a", "reference": DAMAGED, "other": DAMAGED},
            {"source": "b", "reference": None, "other": DAMAGED},
            {"source": "c", "reference": DAMAGED, "other": None},
        ],
        "agreed": 1,
        "agreement": 1.0,
        "unshared": 0,
        "largest_change": 0.0,
        "largest_change_source": "good",
        "mean_change": 0.0,
        "changed": [],
    }


def test_of_nothing_nothing_is_said() -> None:
    result = compared((failure("a"), failure("a"))).to_dict()
    keys = ("agreement", "largest_change", "largest_change_source", "mean_change")
    assert [result[key] for key in keys] == [None] * 4


def test_changed_images_are_all_counted_and_few_named() -> None:
    many = [
        (answer(str(index), np.array([1.0, 0.0])), answer(str(index), np.array([0.0, 1.0])))
        for index in range(100_000 // 50)
    ]
    comparison = compared(*many)
    assert (comparison.compared, comparison.agreed, len(comparison.changed)) == (2000, 0, 10)
    everything = compared(*many, *[(failure("a"), failure("a"))] * 20, max_named=5000)
    assert (len(everything.changed), len(everything.failures)) == (2000, 20)


def test_two_models_agree_where_they_choose_the_same_shared_class() -> None:
    # Class 1 of the first model is class 0 of the second, and class 2 is class 1. The others are not shared.
    probabilities = [
        ([0.1, 0.7, 0.2], [0.6, 0.4], True),  # the same class
        ([0.1, 0.2, 0.7], [0.9, 0.1], False),  # two shared classes
        ([0.8, 0.1, 0.1], [0.7, 0.3], False),  # a class that only the first has
        ([0.1, 0.5, 0.4], [0.2, 0.1, 0.7], False),  # a class that only the second has
    ]
    comparison = compared(
        *((answer(str(n), np.array(a)), answer(str(n), np.array(b))) for n, (a, b, _) in enumerate(probabilities)),
        shared={1: 0, 2: 1},
    )
    assert (comparison.compared, comparison.agreed, comparison.unshared) == (4, 1, 2)
    assert [change.source for change in comparison.changed] == ["1", "2", "3"]
    assert [(change.reference.class_index, change.other.class_index) for change in comparison.changed] == [
        (2, 0),
        (0, 0),
        (1, 2),
    ]
    changes = [max(abs(a[1] - b[0]), abs(a[2] - b[1])) for a, b, _ in probabilities]
    assert comparison.largest_change == pytest.approx(max(changes))
    assert comparison.mean_change == pytest.approx(np.mean(changes))


def test_the_two_answers_to_each_image_are_read_as_they_come() -> None:
    read: list[str] = []

    def stream(name: str) -> object:
        for index in range(3):
            read.append(f"{name}{index}")
            yield answer(str(index), np.array([1.0]))

    both = pair_results(stream("exact"), stream("other"))  # type: ignore[arg-type]
    assert [result.source for result in next(both)] == ["0", "0"]
    assert read == ["exact0", "other0"]
    assert len(list(both)) == 2


@pytest.mark.parametrize(
    ("exact", "other", "words"),
    [
        (["a", "b"], ["a", "c"], "'b' and 'c'"),
        (["a"], ["a", "c"], "nothing and 'c'"),
        (["a", "b"], ["a"], "'b' and nothing"),
    ],
)
def test_images_that_are_not_the_same_are_not_compared(exact: list[str], other: list[str], words: str) -> None:
    one = np.array([1.0])
    with pytest.raises(UnavailableError, match=words):
        list(pair_results([answer(name, one) for name in exact], [answer(name, one) for name in other]))
