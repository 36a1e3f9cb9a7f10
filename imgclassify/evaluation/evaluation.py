"""The figures of an evaluation, and the document that holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.evaluation import metrics
from imgclassify.evaluation.collector import ImageArrays
from imgclassify.evaluation.intervals import Estimate
from imgclassify.evaluation.label_errors import LabelError

if TYPE_CHECKING:
    from imgclassify.evaluation.truth import Truth
    from imgclassify.results import RunInfo

__all__ = ["SCHEMA", "Evaluation", "evaluate"]

SCHEMA = "imgclassify.evaluation/1"
"""Identifies the structure of the document. A breaking change increases the number."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The thresholds whose accuracy is told."""


class Confusion(NamedTuple):
    """How many images of one class were taken for another one."""

    truth: str
    predicted: str
    count: int  # type: ignore[assignment] # hides tuple.count


class ClassRow(NamedTuple):
    """How well one class is found."""

    label: str
    wnid: str | None
    count: int  # type: ignore[assignment] # hides tuple.count
    """Images of the class that have predictions."""
    failed: int
    predicted: int
    precision: float | None
    recall: Estimate
    f1: float | None


class MistakeGroup(NamedTuple):
    """Mistakes whose answer was at least right about a node of the tree: "wrong, but a dog"."""

    label: str
    wnid: str | None
    count: int  # type: ignore[assignment] # hides tuple.count


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The figures of one model on labelled images."""

    run: RunInfo | dict[str, Any]
    truth: Truth
    arrays: ImageArrays
    failed: int
    error_types: dict[str, int]
    metrics: dict[str, Estimate]
    """By name, as in the document."""
    thresholds_for: dict[str, float | None]
    """"coverage_at_95" and "coverage_at_99" → the threshold that gives this coverage."""
    classes: tuple[ClassRow, ...]
    confusions: tuple[Confusion, ...]
    mistakes: tuple[MistakeGroup, ...]
    label_errors: tuple[LabelError, ...]
    reliability: tuple[metrics.ReliabilityBin, ...]
    above: tuple[metrics.ThresholdRow, ...]
    answers: dict[str, Estimate] | None
    """"right", "leaf", "rollup" and "unsure", as shares, and "bits". None unless records have answers."""
    sets: dict[str, Estimate] | None
    """"coverage" and "size". None unless records have prediction sets."""

    @property
    def images(self) -> int:
        """How many images have predictions and a truth."""
        return len(self.arrays.truth)
