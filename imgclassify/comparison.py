"""Compares two runs of a model on the same images: how often their top predictions agree, and how much
probabilities change.

Only running totals are kept in memory.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from imgclassify.errors import UnavailableError
from imgclassify.results import ImageResult, Prediction

MAX_NAMED = 10
"""Maximum number of images with a different top prediction to list. All such images are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """An image whose top prediction differs between the two runs."""

    source: str
    exact: Prediction
    other: Prediction

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "exact": self.exact.to_dict(), "other": self.other.to_dict()}


@dataclass(slots=True)
class Comparison:
    """The totals over the images compared so far."""

    compared: int = 0
    """Images that both runs classified. All fields after `failed_once` are about these."""
    failed: int = 0
    """Images that at least one run could not classify."""
    failed_once: int = 0
    """Images among `failed` that the other run classified."""
    agreed: int = 0
    """Images whose top prediction is the same."""
    largest_change: float = 0.0
    """Largest change in the probability of any class of any image, 0..1."""
    largest_change_source: str | None = None
    changed: list[Change] = field(default_factory=list)
    """The first MAX_NAMED images whose top prediction differs."""
    _sum: float = 0.0

    @property
    def agreement(self) -> float | None:
        """The share of images whose top prediction is the same, 0..1. None if none was compared."""
        return self.agreed / self.compared if self.compared else None

    @property
    def mean_change(self) -> float | None:
        """The mean over the compared images of the largest change in each, 0..1. None if none was compared."""
        return self._sum / self.compared if self.compared else None

    def add(self, exact: ImageResult, other: ImageResult) -> None:
        """Adds one image to the totals. Each result has an error, or the probabilities of all classes."""
        if exact.error or other.error:
            self.failed += 1
            self.failed_once += not (exact.error and other.error)
            return
        self.compared += 1
        change = largest_change(exact, other)
        self._sum += change
        if self.largest_change_source is None or change > self.largest_change:
            self.largest_change, self.largest_change_source = change, exact.source
        first, its_rival = exact.predictions[0], other.predictions[0]
        if first.class_index == its_rival.class_index:
            self.agreed += 1
        elif len(self.changed) < MAX_NAMED:
            self.changed.append(Change(exact.source, first, its_rival))

    def to_dict(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "failed": self.failed,
            "failed_once": self.failed_once,
            "agreed": self.agreed,
            "agreement": self.agreement,
            "largest_change": self.largest_change if self.compared else None,
            "largest_change_source": self.largest_change_source,
            "mean_change": self.mean_change,
            "changed": [change.to_dict() for change in self.changed],
        }


def largest_change(exact: ImageResult, other: ImageResult) -> float:
    """Returns the largest difference in the probability of any class, 0..1.

    Both results must have predictions for all classes.
    """
    probabilities = {prediction.class_index: prediction.probability for prediction in other.predictions}
    return max(
        abs(prediction.probability - probabilities[prediction.class_index]) for prediction in exact.predictions
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
