"""The record of a labelled image: its predictions, its truth, and how good the predictions are."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import NoneType
from typing import Any, NamedTuple, Self

from imgclassify.output.records import ERROR, PREDICTIONS, RecordType, Scalar, Struct
from imgclassify.results import ImageFailure, ImageResult

__all__ = ["EVALUATIONS", "ImageScores", "ImageTruth", "LabelledResult"]


class ImageTruth(NamedTuple):
    """The true class of an image."""

    class_index: int | None
    """None if any of several classes is right."""
    wnid: str | None
    label: str
    """The label of the class, or the name that stands for several classes."""


class ImageScores(NamedTuple):
    """How good the predictions of one image are."""

    rank: int | None
    """The rank of the true class, from 1. None if it is not among the predictions that are known."""
    probability: float | None
    """0..1, of the true class, or the sum of the classes that are right. None if it is not known."""
    confidence: float
    """0..1: the probability of the predicted class, with those that the truth does not tell apart from it."""
    nll: float | None
    """-ln of `probability`, from 0. None if it is not known."""
    brier: float | None
    """The sum of the squared differences between probabilities and truth, 0..2 (Brier 1950). None if not all
    probabilities are known."""

    def is_sound(self) -> bool:
        """Whether each field has a value that it can have."""
        return (
            (self.rank is None or _is_integer(self.rank, 1))
            and _is_number(self.confidence, 1)
            and (self.probability is None or _is_number(self.probability, 1))
            and (self.nll is None or _is_number(self.nll, sys.float_info.max))
            and (self.brier is None or _is_number(self.brier, 2 + 1e-6))
        )


@dataclass(frozen=True, slots=True)
class LabelledResult:
    """The record of one labelled image."""

    result: ImageResult
    truth: ImageTruth
    scores: ImageScores | None
    """None if the image failed."""

    @property
    def source(self) -> str:
        return self.result.source

    @property
    def model(self) -> str:
        return self.result.model

    @property
    def error(self) -> ImageFailure | None:
        return self.result.error

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as all formats contain it (docs/evaluation.md)."""
        return self.result.to_dict() | {
            "truth": self.truth._asdict(),
            "scores": self.scores._asdict() if self.scores else None,
        }

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Creates a result from its record, the inverse of `to_dict`.

        Raises:
            ValueError: the record is incomplete or invalid.
        """
        result = ImageResult.from_dict(record)
        try:
            truth, scores = record["truth"], record["scores"]
            found = cls(
                result,
                ImageTruth(truth["class_index"], truth["wnid"] or None, truth["label"]),
                None if scores is None else ImageScores(**scores),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError("it lacks a field, or has an unknown one") from error
        if not found._is_sound():
            raise ValueError("a field has an invalid value")
        return found

    def _is_sound(self) -> bool:
        truth, scores = self.truth, self.scores
        return (
            (scores is None) == (self.error is not None)
            and type(truth.label) is str
            and type(truth.wnid) in (str, NoneType)
            and (truth.class_index is None or _is_integer(truth.class_index, 0))
            and (scores is None or scores.is_sound())
        )


def _is_integer(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: object, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most  # type: ignore[operator]


_TRUTH = Struct(
    "truth",
    (
        Scalar("label", "text"),
        Scalar("class_index", "integer", nullable=True, comment="NULL if any of several classes is right"),
        Scalar("wnid", "text", nullable=True),
    ),
    added=True,
)
_SCORES = Struct(
    "scores",
    (
        Scalar("confidence", "real", nullable=True, comment="of the predicted class; NULL if the image failed"),
        Scalar("rank", "integer", nullable=True, comment="of the true class, from 1"),
        Scalar("probability", "real", nullable=True, comment="of the true class"),
        Scalar("nll", "real", nullable=True, comment="-ln of it"),
        Scalar("brier", "real", nullable=True),
    ),
    added=True,
)

EVALUATIONS: RecordType[LabelledResult] = RecordType(
    name="evaluations",
    schema="imgclassify.evaluations/1",
    from_dict=LabelledResult.from_dict,
    fields=(*(field for field in PREDICTIONS.fields if field != ERROR), _TRUTH, _SCORES, ERROR),
    setting_names=PREDICTIONS.setting_names,
    must_match=PREDICTIONS.must_match,
    optional_settings=(*PREDICTIONS.optional_settings, "truth", "map", "ignore_unknown"),
    added_keys=PREDICTIONS.added_keys,
)
"""The records that the command `evaluate` writes."""
