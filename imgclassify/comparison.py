"""Compares two runs on the same images, of one model or of two: how often their top predictions agree, and how much
probabilities change.

Only running totals and a limited number of examples are kept in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from imgclassify.errors import UnavailableError
from imgclassify.results import ImageFailure, ImageResult, Prediction

MAX_NAMED = 10
"""By default, at most so many images are named. All are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """An image whose top prediction differs between the two runs."""

    source: str
    reference: Prediction
    other: Prediction

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "reference": self.reference.to_dict(), "other": self.other.to_dict()}


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that at least one run could not classify."""

    source: str
    reference: ImageFailure | None
    other: ImageFailure | None

    def to_dict(self) -> dict[str, Any]:
        errors = {"reference": self.reference, "other": self.other}
        return {"source": self.source} | {name: error and error.to_dict() for name, error in errors.items()}


@dataclass(slots=True)
class Comparison:
    """The totals over the images compared so far."""

    shared: Mapping[int, int]
    """The classes that both models have: class index in the reference → class index in the other. Not empty."""
    max_named: int = MAX_NAMED
    """At most so many images are in `changed`, and in `failures`."""
    compared: int = 0
    """Images that both runs classified. All fields after `failures` are about these."""
    failed: int = 0
    """Images that at least one run could not classify."""
    failed_once: int = 0
    """Images among `failed` that the other run classified."""
    failures: list[Failure] = field(default_factory=list)
    """The first of them."""
    agreed: int = 0
    """Images whose top prediction is the same class."""
    unshared: int = 0
    """Images for which a top prediction is a class that only one model has. They do not agree."""
    largest_change: float = 0.0
    """Largest change in the probability of any shared class of any image, 0..1."""
    largest_change_source: str | None = None
    changed: list[Change] = field(default_factory=list)
    """The first images whose top prediction differs."""
    _shared_by_other: frozenset[int] = field(init=False)
    _sum: float = 0.0

    def __post_init__(self) -> None:
        self._shared_by_other = frozenset(self.shared.values())

    @property
    def num_changed(self) -> int:
        """Images whose top prediction differs."""
        return self.compared - self.agreed

    @property
    def agreement(self) -> float | None:
        """The share of images whose top prediction is the same, 0..1. None if none was compared."""
        return self.agreed / self.compared if self.compared else None

    @property
    def mean_change(self) -> float | None:
        """The mean over the compared images of the largest change in each, 0..1. None if none was compared."""
        return self._sum / self.compared if self.compared else None

    def add(self, reference: ImageResult, other: ImageResult) -> None:
        """Adds one image to the totals. Each result has an error, or the probabilities of all classes."""
        if reference.error or other.error:
            self.failed += 1
            self.failed_once += not (reference.error and other.error)
            if len(self.failures) < self.max_named:
                self.failures.append(Failure(reference.source, reference.error, other.error))
            return
        self.compared += 1
        change = largest_change(reference, other, self.shared)
        self._sum += change
        if self.largest_change_source is None or change > self.largest_change:
            self.largest_change, self.largest_change_source = change, reference.source
        first, its_rival = reference.predictions[0], other.predictions[0]
        if self.shared.get(first.class_index) == its_rival.class_index:
            self.agreed += 1
            return
        self.unshared += not (first.class_index in self.shared and its_rival.class_index in self._shared_by_other)
        if len(self.changed) < self.max_named:
            self.changed.append(Change(reference.source, first, its_rival))

    def to_dict(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "failed": self.failed,
            "failed_once": self.failed_once,
            "failures": [failure.to_dict() for failure in self.failures],
            "agreed": self.agreed,
            "agreement": self.agreement,
            "unshared": self.unshared,
            "largest_change": self.largest_change if self.compared else None,
            "largest_change_source": self.largest_change_source,
            "mean_change": self.mean_change,
            "changed": [change.to_dict() for change in self.changed],
        }


def largest_change(reference: ImageResult, other: ImageResult, shared: Mapping[int, int]) -> float:
    """Returns the largest difference in the probability of any shared class, 0..1.

    Both results must have predictions for all classes.

    Args:
        shared: as in Comparison.
    """
    probabilities = {prediction.class_index: prediction.probability for prediction in other.predictions}
    return max(
        abs(prediction.probability - probabilities[shared[prediction.class_index]])
        for prediction in reference.predictions
        if prediction.class_index in shared
    )


def pair_results(
    reference: Iterable[ImageResult], other: Iterable[ImageResult]
) -> Generator[tuple[ImageResult, ImageResult], None, None]:
    """Yields the two results for each image.

    Raises:
        UnavailableError: the two streams are not about the same images in the same order.
    """
    for first, second in zip_longest(reference, other):
        if first is None or second is None or first.source != second.source:
            names = " and ".join(repr(one.source) if one else "nothing" for one in (first, second))
            raise UnavailableError(
                f"the images changed while they were compared: {names} at the same position",
                hint="run the comparison again, and do not add or remove images meanwhile",
            )
        yield first, second
