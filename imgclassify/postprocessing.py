"""Turns the outputs of a network into results: activation, temperature, groups, labels and top-k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import CheckpointError
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

__all__ = ["Postprocessor", "top_k", "top_k_of_rows"]


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
        """Returns the result of an image, as `to_results` does."""
        [result] = self.to_results([image])
        return result

    def to_results(self, images: Sequence[ImageOutputs]) -> list[ImageResult]:
        """Returns the results of images, in order. Together they take less time than one by one.

        Raises:
            CheckpointError: a probability is not a number, because the logits over the temperature overflow.
        """
        assessed = iter(self._assess([image.arrays for image in images if image.arrays is not None]))
        return [
            ImageResult(
                model=self._model,
                **image.record_fields(),
                **({"predictions": ()} if image.arrays is None else next(assessed)),
            )
            for image in images
        ]

    def _assess(self, arrays: Sequence[Mapping[str, NDArray[np.float32]]]) -> list[dict[str, Any]]:
        """Returns for each image the fields of its record that depend on the outputs of the network."""
        if not arrays:
            return []
        import numpy as np

        outputs = np.stack([each[LOGITS] for each in arrays])
        probabilities = self.to_probabilities(outputs)
        if np.isnan(probabilities).any():
            raise CheckpointError(
                f"the probabilities of {self._model} are not numbers",
                hint=f"calibrate it again: its temperature is {self._temperature}" if self._temperature else None,
            )
        predictions = self._to_predictions(probabilities)
        if self._assessor is None:
            return [{"predictions": each} for each in predictions]
        raw = self._activation.apply(outputs) if self._temperature else probabilities
        return [
            {"predictions": each, **self._assessor.assess(row, raw_row, found.get(FEATURES))._asdict()}
            for each, row, raw_row, found in zip(predictions, probabilities, raw, arrays, strict=True)
        ]

    def to_probabilities(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the probabilities of all classes, or groups.

        Args:
            outputs: (…, number of outputs): what the network returns.

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

    def _to_predictions(self, probabilities: NDArray[np.float32]) -> list[tuple[Prediction, ...]]:
        """Returns the predictions for each row of (N, number of classes)."""
        import numpy as np

        indices = top_k_of_rows(probabilities, self._top_k)
        # Converted through its text, a float32 keeps its own digits: 0.1 does not become 0.10000000149011612.
        # orjson writes the shortest text that stands for the same float32, as numpy does.
        largest = np.take_along_axis(probabilities, indices, axis=1)
        digits = orjson.loads(orjson.dumps(largest, option=orjson.OPT_SERIALIZE_NUMPY))
        return [
            tuple(self._predict(rank, *each) for rank, each in enumerate(zip(row, numbers, strict=True), start=1))
            for row, numbers in zip(indices.tolist(), digits, strict=True)
        ]

    def _predict(self, rank: int, class_index: int, probability: float) -> Prediction:
        label = self._labels[class_index]
        return Prediction(rank, class_index, label.wnid, label.label, probability)


def top_k(probabilities: NDArray[np.float32], count: int) -> list[int]:
    """Returns the class indices of the largest probabilities, the largest first.

    Of equal probabilities, the one with the lower index comes first.

    Args:
        probabilities: (C,). None is NaN.
        count: how many indices. All if there are fewer.
    """
    indices: list[int] = top_k_of_rows(probabilities[None], count)[0].tolist()
    return indices


def top_k_of_rows(probabilities: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Returns the indices that `top_k` returns, for each row.

    Args:
        probabilities: (N, C). None is NaN.
        count: as in `top_k`.

    Returns:
        (N, min(count, C)).
    """
    import numpy as np

    if count >= probabilities.shape[1]:
        in_order: NDArray[np.intp] = np.argsort(-probabilities, axis=1, kind="stable")
        return in_order
    # Sorting all classes would take longer: of 1,000 twice as long, of 21,843 fifty times.
    least = np.partition(probabilities, -count, axis=1)[:, -count, None]
    rows, columns = np.nonzero(probabilities >= least)
    order = np.lexsort((columns, -probabilities[rows, columns], rows))
    first_of_row = np.searchsorted(rows, np.arange(len(probabilities)))
    indices: NDArray[np.intp] = columns[order[first_of_row[:, None] + np.arange(count)]]
    return indices
