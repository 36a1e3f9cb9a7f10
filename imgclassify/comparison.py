"""Two ways of running a model held against each other on the same pictures: how often their first answers agree,
and how far probabilities move. Only running numbers are kept."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from imgclassify.errors import UnavailableError
from imgclassify.results import ImageResult, Prediction

MAX_NAMED = 10
"""Pictures with another first answer that are named; all of them are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """A picture whose first answer is another."""

    source: str
    exact: Prediction
    other: Prediction

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "exact": self.exact.to_dict(), "other": self.other.to_dict()}


@dataclass(slots=True)
class Comparison:
    """What the pictures so far have shown."""

    compared: int = 0
    """Pictures that both ways answered; all below is about these."""
    failed: int = 0
    """Pictures that at least one way could not answer."""
    failed_once: int = 0
    """Those among the failed that the other way answered."""
    agreed: int = 0
    """Pictures whose first answer is the same."""
    largest_change: float = 0.0
    """Of the probability of any class of any picture, 0..1."""
    largest_change_source: str | None = None
    changed: list[Change] = field(default_factory=list)
    """The first MAX_NAMED pictures whose first answer is another."""
    _sum: float = 0.0

    @property
    def agreement(self) -> float | None:
        """The share of pictures whose first answer is the same, 0..1; None where none was compared."""
        return self.agreed / self.compared if self.compared else None

    @property
    def mean_change(self) -> float | None:
        """The mean over the pictures of each one's largest change, 0..1; None where none was compared."""
        return self._sum / self.compared if self.compared else None

    def add(self, exact: ImageResult, other: ImageResult) -> None:
        """Takes in one picture, answered both ways with the probabilities of all classes."""
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
    """The largest difference of any class's probability, 0..1. Both have predictions of the same classes, all."""
    probabilities = {prediction.class_index: prediction.probability for prediction in other.predictions}
    return max(
        abs(prediction.probability - probabilities[prediction.class_index]) for prediction in exact.predictions
    )


def pair_results(
    reference: Iterable[ImageResult], other: Iterable[ImageResult]
) -> Generator[tuple[ImageResult, ImageResult], None, None]:
    """The two answers to each picture.

    Raises:
        UnavailableError: the two streams are not about the same pictures in the same order.
    """
    for first, second in zip_longest(reference, other):
        if first is None or second is None or first.source != second.source:
            names = " and ".join(repr(one.source) if one else "nothing" for one in (first, second))
            raise UnavailableError(
                f"the pictures changed while they were compared: {names} in the same place",
                hint="compare pictures that nobody adds to or removes from meanwhile",
            )
        yield first, second
