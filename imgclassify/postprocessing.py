"""Turns the outputs of a network into results: activation, temperature, groups, labels and top-k."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.results import ImageResult, Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.confidence.assessment import Assessor
    from imgclassify.engines.activation import Activation
    from imgclassify.labels import LabelSet
    from imgclassify.labels.grouping import Grouping
    from imgclassify.labels.taxonomy import Taxonomy
    from imgclassify.runner import ImageOutputs

__all__ = ["Postprocessor", "top_k"]


class Postprocessor:
    """Turns the outputs of one network into results."""

    def __init__(
        self,
        model: str,
        labels: LabelSet,
        activation: Activation,
        *,
        top_k: int,
        temperature: float | None = None,
        grouping: Grouping | None = None,
        assessor: Assessor | None = None,
    ) -> None:
        """
        Args:
            model: the name of the model in the results.
            labels: of the classes, or of the groups of `grouping`.
            top_k: predictions per image, at most the number of labels.
            temperature: what the logits of a softmax are divided by. None for the raw probabilities.
            assessor: says more of an image than its predictions. None if nothing more is wanted.
        """
        self._model = model
        self._labels = labels
        self._activation = activation
        self._top_k = top_k
        self._temperature = temperature
        self._grouping = grouping
        self._assessor = assessor

    @property
    def taxonomy(self) -> Taxonomy | None:
        """The tree that answers climb. None if none does."""
        return self._assessor.taxonomy if self._assessor else None

    def to_result(self, image: ImageOutputs) -> ImageResult:
        """Returns the result of an image."""
        predictions: tuple[Prediction, ...] = ()
        assessed: dict[str, Any] = {}
        if image.arrays is not None:
            outputs = image.arrays[LOGITS]
            probabilities = self.to_probabilities(outputs)
            predictions = self._to_predictions(probabilities)
            if self._assessor:
                raw = self._activation.apply(outputs) if self._temperature else probabilities
                assessed = self._assessor.assess(probabilities, raw, image.arrays.get(FEATURES))._asdict()
        return ImageResult(model=self._model, predictions=predictions, **image.record_fields(), **assessed)

    def to_probabilities(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the probabilities of all classes, or groups.

        Args:
            outputs: (…, number of outputs): what the network returns. With groups, of one image.

        Returns:
            (…, number of classes or groups), 0..1.
        """
        import numpy as np

        if self._temperature:
            outputs = outputs / np.float32(self._temperature)
        probabilities = self._activation.apply(outputs)
        return self._grouping.sum_probabilities(probabilities) if self._grouping else probabilities

    def to_log_probabilities(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the natural logarithms of the probabilities of all classes.

        Those of a softmax are computed from the logits, so that none is minus infinity.

        Args:
            outputs: (number of outputs,): what the network returns for one image.

        Returns:
            (number of classes or groups,).
        """
        import numpy as np

        if self._activation.name == "softmax" and not self._grouping:
            from imgclassify.confidence.temperature import log_softmax  # predict does not need it

            return log_softmax(outputs, self._temperature or 1.0)
        return np.log(np.maximum(self.to_probabilities(outputs).astype(np.float64), np.finfo(np.float32).tiny))

    def _to_predictions(self, probabilities: NDArray[np.float32]) -> tuple[Prediction, ...]:
        predictions = []
        for rank, class_index in enumerate(top_k(probabilities, self._top_k), start=1):
            label = self._labels[class_index]
            # Converted through its text, a float32 keeps its own digits: 0.1 does not become
            # 0.10000000149011612.
            probability = float(str(probabilities[class_index]))
            predictions.append(Prediction(rank, class_index, label.wnid, label.label, probability))
        return tuple(predictions)


def top_k(probabilities: NDArray[np.float32], count: int) -> list[int]:
    """Returns the class indices of the `count` largest probabilities, the largest first.

    Of equal probabilities, the one with the lower index comes first.
    """
    import numpy as np

    if count < len(probabilities):
        # Sorting all classes would take longer: of 1,000 twice as long, of 21,843 fifty times.
        candidates = np.flatnonzero(probabilities >= np.partition(probabilities, -count)[-count])
    else:
        candidates = np.arange(len(probabilities))
    order = np.argsort(-probabilities[candidates], kind="stable")[:count]
    indices: list[int] = candidates[order].tolist()
    return indices
