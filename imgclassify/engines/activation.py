"""What turns the outputs of a network into probabilities, and how this is found out.

The rule, where the user does not say it:

1. Sorted rows are refused: it is not known which class each value is of.
2. Rows that sum to 1 are probabilities already. So are rows that sum to 100 or 255, in percent or bytes.
3. Whole numbers and unit vectors are no outputs of a classifier, and are refused.
4. Values within 0..1 are probabilities of independent classes, unless a linear layer of a graph computes them.
5. Other values get what the model's files say: softmax or sigmoid.
6. A single output gets a sigmoid, and several get a softmax.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger("imgclassify")

_TOTALS = {"probabilities": 1.0, "percent": 100.0, "bytes": 255.0}
"""What the rows of a softmax sum to, by the unit of the outputs."""
_SUM_TOLERANCE = 1e-2
"""How far the sum of a row may be from it, as a fraction. A softmax in float16 over 1,000 classes is within 1e-3.
One that is rounded to bytes is not always within 1e-2, and is then refused."""
_RANGE_TOLERANCE = 1e-3
"""How far a probability may be outside 0..1 by rounding, in float16."""
_NORM_TOLERANCE = 1e-3
_MIN_SORTED = 10
"""From this many classes on, logits of all crops are never sorted by chance."""

_LINEAR = {
    *("Gemm", "MatMul", "Conv", "BatchNormalization", "Add"),
    *("Relu", "GlobalAveragePool", "AveragePool", "ReduceMean"),  # SqueezeNet's logits
    *("QLinearConv", "QLinearMatMul", "MatMulInteger", "QGemm"),
}
"""Operators that compute logits, whose values may be within 0..1 by chance."""
_PROBABILITY = {"Softmax", "Sigmoid", "HardSigmoid"}
"""Operators that compute probabilities."""
_RANKING, _CLASS_NUMBER = "TopK", {"ArgMax", "ArgMin"}

_EXPORT_HINT = "export the network with its logits or probabilities, (N, classes), as the output{}; "
_INSIST_HINT = "or give --activation softmax or sigmoid if they are logits all the same"


class Activation(NamedTuple):
    """What turns the outputs of a network into probabilities."""

    name: str
    """One of catalog.ACTIVATIONS: "softmax", "sigmoid", or "none" if they are probabilities already."""
    scale: float = 1.0
    """What the outputs are multiplied by first: 1/100 for percent, 1/255 for bytes."""
    multi_label: bool = False
    """Whether each class is predicted by itself, so that the probabilities do not sum to 1."""
    is_pair: bool = False
    """Whether the network has one output for two classes. Its probability is that of the second class."""

    def for_labels(self, num_outputs: int, num_labels: int) -> Activation:
        """Returns the activation for a network whose classes have these labels: one output may stand for two."""
        if (num_outputs, num_labels) != (1, 2):
            return self
        return self._replace(is_pair=True, multi_label=False)

    def apply(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Computes probabilities.

        Args:
            outputs: (…, number of outputs).

        Returns:
            (…, number of classes) float32, 0..1. There are two classes if `is_pair`, else one for each output.

        Raises:
            CheckpointError: the activation is "none", and an output is not within 0..1.
        """
        import numpy as np

        if self.name == "softmax":
            return softmax(outputs)
        if self.name == "sigmoid":
            return sigmoid(np.concatenate([-outputs, outputs], axis=-1) if self.is_pair else outputs)
        probabilities = _require_probabilities(outputs * np.float32(self.scale))
        return np.concatenate([1 - probabilities, probabilities], axis=-1) if self.is_pair else probabilities


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Converts logits to probabilities along the last axis, so that each row sums to 1.

    The computation is stable for logits of any size.
    """
    import numpy as np

    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Converts each logit to a probability by itself: 1 / (1 + exp(-logit)). Stable for logits of any size."""
    import numpy as np

    small = np.exp(-np.abs(logits))
    probabilities: NDArray[np.float32] = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities


def logits_activation(num_outputs: int, stated: str | None = None) -> Activation:
    """Returns the activation of a network that is known to return logits.

    Args:
        stated: as in `find_activation`. The softmax of a single output would always be 1, and is not believed.
    """
    if stated and not (stated == "softmax" and num_outputs == 1):
        return _create(stated)
    return _create("sigmoid" if num_outputs == 1 else "softmax")


def require_activation(name: str, num_outputs: int) -> Activation:
    """Returns the activation that the user, or the author of the model, names.

    Raises:
        UsageError: it is a softmax of a single output.
    """
    if name == "softmax" and num_outputs == 1:
        raise UsageError(
            "the network has one output, and the softmax of one number is always 1",
            hint="use --activation sigmoid",
        )
    return _create(name)


def check_activation(name: str, outputs: NDArray[np.float32], operator: str = "") -> Activation:
    """Returns the activation that the user names, compared with what a network returns for several crops.

    Logs a warning if the outputs are probabilities already.

    Args:
        outputs, operator: as in `find_activation`.

    Raises:
        UsageError: it is a softmax of a single output.
        CheckpointError: it is "none", and an output is not within 0..1.
    """
    activation = require_activation(name, outputs.shape[1])
    outputs = _finite_rows(outputs)
    total = _find_total(outputs)
    if name == "none":
        _require_probabilities(outputs)
        return activation._replace(multi_label=total != 1)
    if total == 1 or (name == "sigmoid" and _are_independent(outputs, operator)):
        logger.warning(
            "the outputs of the network are probabilities already, and --activation %s changes them; "
            "leave it out to use them as they are",
            name,
        )
    return activation


def find_activation(outputs: NDArray[np.float32], operator: str = "", stated: str | None = None) -> Activation:
    """Returns the activation that outputs need, by the rule at the top of this file.

    Args:
        outputs: (crops, number of outputs), for several crops that differ much.
        operator: the operator of a graph that computes them, such as "Softmax"; empty if it is not known.
        stated: the activation that the model's files name, if they do.

    Raises:
        CheckpointError: the outputs cannot be those of a classifier.
    """
    outputs = _finite_rows(outputs)
    _refuse_ranked(outputs, operator)
    if total := _find_total(outputs):
        return Activation("none", 1 / total)
    _refuse_others(outputs, operator)
    if _are_independent(outputs, operator):
        return Activation("none", multi_label=True)
    if stated == "none":
        _require_probabilities(outputs)
    return logits_activation(outputs.shape[1], stated)


def _create(name: str) -> Activation:
    return Activation(name, multi_label=name != "softmax")


def _finite_rows(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the rows that show something. A made-up crop may be too odd for a network.

    Raises:
        CheckpointError: no row is finite.
    """
    import numpy as np

    rows: NDArray[np.float32] = outputs[np.isfinite(outputs).all(axis=1)]
    if not len(rows):
        raise CheckpointError(
            "the network returns numbers that are not finite",
            hint="check --mean and --std; if they are right, the weights are damaged",
        )
    return rows


def _find_total(outputs: NDArray[np.float32]) -> float | None:
    """Returns the total of _TOTALS that every row sums to, or None.

    Logits of several different crops never do so by chance.
    """
    if outputs.shape[1] < 2 or outputs.min() < 0:
        return None
    sums = outputs.sum(axis=1)
    return next(
        (total for total in _TOTALS.values() if bool((abs(sums - total) <= _SUM_TOLERANCE * total).all())), None
    )


def _are_independent(outputs: NDArray[np.float32], operator: str) -> bool:
    """Whether the values are probabilities of classes that are predicted each by itself."""
    if outputs.min() < 0 or outputs.max() > 1 or operator in _LINEAR:
        return False
    # A network that returns the same for all crops shows nothing: its head may be all zeros.
    return operator in _PROBABILITY or bool(outputs.min() < outputs.max())


def _refuse_ranked(outputs: NDArray[np.float32], operator: str) -> None:
    """Refuses values that are sorted, and so do not belong to the classes in their order."""
    import numpy as np

    falls = np.diff(outputs, axis=1) <= 0
    is_sorted = outputs.shape[1] >= _MIN_SORTED and falls.all() and (outputs[:, 0] > outputs[:, -1]).all()
    if operator == _RANKING or is_sorted:
        raise CheckpointError(
            "the outputs of the network are sorted, the largest first, so it is not known which class each is of",
            hint=_EXPORT_HINT.format(", before they are sorted (TopK)") + _INSIST_HINT,
        )


def _refuse_others(outputs: NDArray[np.float32], operator: str) -> None:
    """Refuses values that can be neither logits nor probabilities."""
    import numpy as np

    shown = f"such as {', '.join(f'{value:.4g}' for value in outputs[0][:3])}"
    if operator in _CLASS_NUMBER or ((outputs == outputs.round()).all() and np.abs(outputs).max() > 1):
        what, place = "class numbers or counts", ", before ArgMax"
        if outputs.shape[1] > 1:
            what, place = "quantized scores or counts", ", after DequantizeLinear"
        raise CheckpointError(
            f"the outputs of the network are whole numbers, {shown}: {what}, not probabilities",
            hint=_EXPORT_HINT.format(place) + _INSIST_HINT,
        )
    norms = np.linalg.norm(outputs, axis=1)
    if outputs.shape[1] > 1 and (abs(norms - 1) <= _NORM_TOLERANCE).all():
        raise CheckpointError(
            "the outputs of the network are vectors of length 1, an embedding, not logits or probabilities",
            hint=_EXPORT_HINT.format("") + "use `imgclassify embed` for embeddings; " + _INSIST_HINT,
        )
    if operator in _PROBABILITY and outputs.max() > 1:
        raise CheckpointError(
            f"the network ends in {operator}, but its outputs are not probabilities of 0 to 1, {shown}",
            hint="export the network without the factor after it; percent and bytes are known by their sum",
        )
    if operator == "Softmax":
        raise CheckpointError(
            f"the network ends in Softmax, but the outputs of an image do not sum to 1, {shown}",
            hint="export the network with the softmax over the classes, axis 1",
        )


def _require_probabilities(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the values, clipped to 0..1.

    Raises:
        CheckpointError: a value is not within 0..1, beyond rounding.
    """
    import numpy as np

    least, most = values.min(), values.max()
    if not (least >= -_RANGE_TOLERANCE and most <= 1 + _RANGE_TOLERANCE):  # NaN fails too
        wrong = least if not least >= -_RANGE_TOLERANCE else most
        raise CheckpointError(
            f"the network returns {wrong:.4g}, which is not a probability of 0 to 1",
            hint="give --activation softmax, or --activation sigmoid if each class is predicted by itself",
        )
    return np.clip(values, 0, 1)
