"""Collects from the records of an evaluation what its figures need: some hundred bytes an image."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation.labelled import ImageTruth, LabelledResult
from imgclassify.results import Answer, ImageFailure, ImageResult

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.truth import Truth, TruthClass
    from imgclassify.labels import LabelSet

__all__ = ["Collector", "ImageArrays"]

MAX_FAILURES = 100
"""The names of so many failed images are kept."""
TOP_CLASSES = 10
"""So many of the predictions of an image are kept, to find wrong labels."""


class ImageArrays(NamedTuple):
    """One entry per image that has predictions. NaN stands for what is not known."""

    truth: NDArray[np.int64]
    """(N,): positions in the true classes."""
    predicted: NDArray[np.int64]
    """(N,): as `truth`, or the number of true classes plus the class index of another class."""
    class_index: NDArray[np.int64]
    """(N,): the predicted class itself."""
    rank: NDArray[np.int64]
    """(N,): of the true class, from 1. 0 if it is not among the predictions that are known."""
    probability: NDArray[np.float64]
    """(N,): of the true class."""
    confidence: NDArray[np.float64]
    nll: NDArray[np.float64]
    brier: NDArray[np.float64]
    top_classes: NDArray[np.int64]
    """(N, K): the best predictions, as `predicted`, -1 where there are fewer."""
    top_probabilities: NDArray[np.float64]
    """(N, K): their probabilities, 0 where there are fewer."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(N,): whether the most probable class is right."""
        correct: NDArray[np.bool_] = self.rank == 1
        return correct


class Collector:
    """Takes the records of an evaluation one by one.

    Attributes:
        truth: the true classes.
        labels: the classes of the model.
        sources: the name of each image that has predictions.
        num_repeated: how many records are left out, because there is an earlier one of the same source. An image
            that counted twice would make the intervals too narrow.
        num_failed: how many images of each true class failed.
        error_types: how many images failed, by the type of error.
        failures: the names and the errors of the first MAX_FAILURES of them.
        answers: the answer of each image, if the records have some.
        sets: (size of the set, whether it holds a right class, or None if its labels do not tell) of each image, if
            the records have prediction sets.
    """

    def __init__(self, truth: Truth, labels: LabelSet) -> None:
        self.truth = truth
        self.labels = labels
        self.sources: list[str] = []
        self.num_repeated = 0
        self.num_failed: Counter[int] = Counter()
        self.error_types: Counter[str] = Counter()
        self.failures: list[tuple[str, ImageFailure]] = []
        self.answers: list[Answer] = []
        self.sets: list[tuple[int, bool | None]] = []
        self.max_rank: int | None = None
        """The rank up to which all records know their predictions. None if all ranks are known."""
        self._seen: set[str] = set()
        self._classes_with = Counter(label.label for label in labels.labels)
        self._truths = [truth_of(each) for each in truth.classes]
        self._class_of_index = {
            index: position
            for position, each in reversed(list(enumerate(truth.classes)))
            for index in each.class_indices
        }
        self._integers: dict[str, array[int]] = {
            name: array("q") for name in ("truth", "predicted", "class_index", "rank", "top_classes")
        }
        self._reals: dict[str, array[float]] = {
            name: array("d") for name in ("probability", "confidence", "nll", "brier", "top_probabilities")
        }

    def add(self, record: LabelledResult) -> None:
        """Takes a record, unless there is an earlier one of the same source.

        Raises:
            UsageError: its truth is another one than that of its source, as in a record that an earlier run made
                with another truth.
        """
        truth = self._find_truth(record)
        if record.source in self._seen:
            self.num_repeated += 1
            return
        self._seen.add(record.source)
        if record.scores is None or record.error:
            error = record.error or ImageFailure("unknown", "its record has neither scores nor an error")
            self.num_failed[truth] += 1
            self.error_types[error.type] += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append((record.source, error))
            return
        result, scores = record.result, record.scores
        self.sources.append(record.source)
        best = result.predictions[0]
        others = len(self.truth.classes) + best.class_index
        predicted = truth if scores.rank == 1 else self._class_of_index.get(best.class_index, others)
        if predicted == truth and scores.rank != 1:
            predicted = others
        for name, number in (
            ("truth", truth),
            ("predicted", predicted),
            ("class_index", best.class_index),
            ("rank", scores.rank or 0),
        ):
            self._integers[name].append(number)
        for name in ("probability", "confidence", "nll", "brier"):
            value = getattr(scores, name)
            self._reals[name].append(float("nan") if value is None else value)
        if scores.rank is None:
            known = len(result.predictions)
            self.max_rank = known if self.max_rank is None else min(self.max_rank, known)
        self._add_best(result)
        if result.answer:
            self.answers.append(result.answer)
        if result.prediction_set is not None:
            self.sets.append((len(result.prediction_set), self._holds(result.prediction_set, truth)))

    def _find_truth(self, record: LabelledResult) -> int:
        """Returns the position of the record's truth in the true classes."""
        position = self.truth.class_of(record.source)
        known = None if position is None else self._truths[position]
        if position is None or known != record.truth:
            now = f"it is {known.label!r}" if known else "the image is left out"
            raise UsageError(
                f"an earlier record of {record.source!r} has the true class {record.truth.label!r}, and now {now}",
                hint="evaluate the images again: --overwrite replaces the earlier records",
            )
        return position

    def _holds(self, members: tuple[str, ...], truth: int) -> bool | None:
        """Returns whether a set of labels holds a right class. None if the label is that of other classes, too."""
        right = {self.labels[index].label for index in self.truth.classes[truth].class_indices}.intersection(
            members
        )
        if right and all(members.count(label) < self._classes_with[label] for label in right):
            return None
        return bool(right)

    def _add_best(self, result: ImageResult) -> None:
        # Classes that the truth does not tell apart are one.
        sums: dict[int, float] = {}
        for each in result.predictions[:TOP_CLASSES]:
            position = self._class_of_index.get(each.class_index, len(self._truths) + each.class_index)
            sums[position] = sums.get(position, 0.0) + each.probability
        best = sorted(sums.items(), key=lambda item: -item[1])
        missing = TOP_CLASSES - len(best)
        self._integers["top_classes"].extend([*(position for position, _ in best), *[-1] * missing])
        self._reals["top_probabilities"].extend([*(total for _, total in best), *[0.0] * missing])

    def to_arrays(self) -> ImageArrays:
        """Returns what was collected. The collector must not be used afterwards: the arrays share its memory."""
        import numpy as np

        columns: dict[str, Any] = {name: np.frombuffer(column, np.int64) for name, column in self._integers.items()}
        columns |= {name: np.frombuffer(column, np.float64) for name, column in self._reals.items()}
        for name in ("top_classes", "top_probabilities"):
            columns[name] = columns[name].reshape(-1, TOP_CLASSES)
        return ImageArrays(**columns)


def truth_of(truth: TruthClass) -> ImageTruth:
    """Returns what a record says of a true class."""
    [index] = truth.class_indices if len(truth.class_indices) == 1 else [None]
    return ImageTruth(index, truth.wnid, truth.label)
