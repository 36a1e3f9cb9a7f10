"""Classifies labelled images, and compares each result with the truth."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from imgclassify.engines import LOGITS
from imgclassify.errors import UsageError
from imgclassify.evaluation.collector import truth_of
from imgclassify.evaluation.labelled import ImageScores, LabelledResult

if TYPE_CHECKING:
    from threading import Event

    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.truth import Truth, TruthClass
    from imgclassify.postprocessing import Postprocessor
    from imgclassify.results import ImageResult, RunInfo
    from imgclassify.runner import ImageOutputs, ModelRunner
    from imgclassify.sources import Source

__all__ = ["Evaluator"]

_SUM_TOLERANCE = 1e-3
"""How far the sum of the probabilities of all classes, each rounded to float32, may be from 1."""


class Evaluator:
    """Produces a LabelledResult for each labelled image.

    Attributes:
        run: the RunInfo of the classifier.
    """

    def __init__(self, run: RunInfo, runner: ModelRunner, postprocessor: Postprocessor, truth: Truth) -> None:
        """
        Args:
            run: describes the classifier that the runner and the postprocessor belong to. Its classes must exclude
                each other.
            truth: the true class of each source, among the classifier's labels.

        Raises:
            UsageError: the classifier predicts each class by itself.
        """
        require_one_class(run.model, multi_label=run.multi_label)
        self.run = run
        self._runner = runner
        self._postprocessor = postprocessor
        self._truth = truth
        self._groups = group_classes(truth.classes)

    def stream(
        self, sources: Iterable[Source], *, stop_event: Event | None = None
    ) -> Generator[LabelledResult, None, None]:
        """Evaluates images, as `Classifier.stream` classifies them. Leaves out those that have no truth."""
        wanted = (source for source in sources if self._truth.has(source.name))
        return self._runner.map(self.label, wanted, stop_event=stop_event)

    def label(self, image: ImageOutputs) -> LabelledResult:
        """Returns the record of an image that has a true class."""
        number = self._truth.class_of(image.source)
        assert number is not None
        return label_outputs(image, self._postprocessor, self._truth.classes[number], self._groups)


def require_one_class(model: str, *, multi_label: bool) -> None:
    """Checks that the classes of a model exclude each other.

    Raises:
        UsageError: it predicts each class by itself.
    """
    if multi_label:
        raise UsageError(
            f"{model} predicts each class by itself, and an image may show several",
            hint="evaluate a model whose classes exclude each other",
        )


def group_classes(classes: Sequence[TruthClass]) -> dict[int, frozenset[int]]:
    """Returns for each class index in a true class the class indices that the truth does not tell apart from it.

    Args:
        classes: all true classes of the evaluation. If several hold a class, the first one counts.
    """
    return {index: each.class_indices for each in reversed(classes) for index in each.class_indices}


def label_outputs(
    image: ImageOutputs, postprocessor: Postprocessor, truth: TruthClass, groups: Mapping[int, frozenset[int]]
) -> LabelledResult:
    """Returns the record of an image, from the outputs of a network.

    Args:
        truth: the true class of the image.
        groups: from `group_classes`.
    """
    scores = None
    if image.arrays is not None:
        outputs = image.arrays[LOGITS]
        scores = score_image(
            postprocessor.to_probabilities(outputs),
            postprocessor.to_log_probabilities(outputs),
            truth.class_indices,
            groups,
        )
    return LabelledResult(postprocessor.to_result(image), truth_of(truth), scores)


def score_image(
    probabilities: NDArray[np.float32],
    log_probabilities: NDArray[np.float64],
    right: frozenset[int],
    groups: Mapping[int, frozenset[int]],
) -> ImageScores:
    """Compares the probabilities of an image with its truth.

    If several classes are right, they count as one: their probabilities are added.

    Args:
        probabilities: (C,), 0..1. They decide the rank, as they decide the order of the predictions.
        log_probabilities: (C,), natural logarithms. No probability is 0 there.
        right: the classes that are right.
        groups: from `group_classes`.
    """
    import numpy as np

    members = sorted(right)
    best = max(members, key=lambda index: (probabilities[index], -index))
    before = probabilities > probabilities[best]
    rank = 1 + int(before.sum()) + int((probabilities[:best] == probabilities[best]).sum())
    exact = np.exp(log_probabilities)
    probability = min(float(exact[members].sum()), 1.0)
    nll = -float(np.logaddexp.reduce(log_probabilities[members]))
    others = np.delete(exact, members)
    predicted = int(probabilities.argmax())
    same = _not_told_apart(predicted, right, groups)
    return ImageScores(
        rank=rank,
        probability=probability,
        confidence=min(float(exact[same].sum()), 1.0),
        nll=max(nll, 0.0),
        brier=float((others**2).sum() + (1 - probability) ** 2),
    )


def score_predictions(
    result: ImageResult, right: frozenset[int], groups: Mapping[int, frozenset[int]], num_classes: int
) -> ImageScores:
    """Compares the predictions of a result with its truth. What they do not tell is None."""
    found = [each for each in result.predictions if each.class_index in right]
    probability = sum(each.probability for each in found) if len(found) == len(right) else None
    predicted = result.predictions[0]
    same = _not_told_apart(predicted.class_index, right, groups)
    confidence = sum(each.probability for each in result.predictions if each.class_index in same)
    return ImageScores(
        rank=found[0].rank if found else None,
        probability=probability,
        confidence=min(confidence, 1.0),
        nll=_negative_logarithm(probability) if probability else None,
        brier=_brier(result, right, num_classes),
    )


def _brier(result: ImageResult, right: frozenset[int], num_classes: int) -> float | None:
    """Returns the Brier score of a result that has the probabilities of all classes, else None."""
    total = sum(each.probability for each in result.predictions)
    if len(result.predictions) != num_classes or abs(total - 1) > _SUM_TOLERANCE:
        return None
    hit = sum(each.probability for each in result.predictions if each.class_index in right)
    return (1 - hit) ** 2 + sum(each.probability**2 for each in result.predictions if each.class_index not in right)


def _not_told_apart(predicted: int, right: frozenset[int], groups: Mapping[int, frozenset[int]]) -> list[int]:
    """Returns the classes that the truth does not tell apart from the predicted one, with that one."""
    return sorted(right if predicted in right else groups.get(predicted, (predicted,)))


def _negative_logarithm(probability: float) -> float:
    from math import log

    return max(-log(probability), 0.0)
