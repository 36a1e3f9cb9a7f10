"""Measures a trained network on its validation part, and fits a temperature, without opening an image again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.engines import FEATURES, LOGITS
from imgclassify.engines.activation import Activation
from imgclassify.errors import UsageError
from imgclassify.evaluation.calibrating import CalibrationReport, LogitsCollector, learn_calibration
from imgclassify.evaluation.collector import TOP_CLASSES, Collector
from imgclassify.evaluation.evaluation import Evaluation, evaluate
from imgclassify.evaluation.evaluator import group_classes, label_outputs
from imgclassify.evaluation.truth import Truth, TruthClass
from imgclassify.hub.model_files import CALIBRATION, LABELS
from imgclassify.labels import Label, LabelSet
from imgclassify.postprocessing import Postprocessor
from imgclassify.runner import ImageOutputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.results import ImageFailure


class FailedImage(NamedTuple):
    """An image that cannot be used."""

    name: str
    class_index: int
    error: ImageFailure


class ValidationOutputs(NamedTuple):
    """What a trained network returns for the images of the validation part."""

    names: Sequence[str]
    """The name of each image, (N,)."""
    class_indices: Sequence[int]
    """Their classes, (N,)."""
    logits: NDArray[np.float32]
    """(N, K)."""
    features: NDArray[np.float32] | None = None
    """(N, D), what the last linear layer sees. None if it is not known."""
    head_weight: NDArray[np.float32] | None = None
    """(K, D), of that layer. None if it is not known."""
    failed: Sequence[FailedImage] = ()
    """The images of the validation part that could not be opened or decoded."""


class Measured(NamedTuple):
    """What is known of a trained network."""

    evaluation: Evaluation
    calibration: CalibrationReport | None
    """None if no temperature can be fitted, or if it does not help on images that it was not fitted to."""
    no_calibration_reason: str
    """Empty if there is one."""


def measure(outputs: ValidationOutputs, classes: Sequence[str], run: Mapping[str, Any], *, how: str) -> Measured:
    """Computes the figures of a network from what it returned for its validation part.

    Args:
        run: what is known of the network, under the keys of RunInfo.to_dict.
        how: Dataset.how.
    """
    labels = LabelSet(LABELS, tuple(Label(index, None, name) for index, name in enumerate(classes)))
    truth = _to_truth(outputs, labels, how)
    postprocessor = Postprocessor(
        str(run["model"]), labels, Activation("softmax"), top_k=min(TOP_CLASSES, len(labels))
    )
    collector, logits = Collector(truth, labels), LogitsCollector(truth)
    groups = group_classes(truth.classes)

    def collect(image: ImageOutputs, class_index: int) -> None:
        collector.add(label_outputs(image, postprocessor, truth.classes[class_index], groups))
        logits.add(image)

    for index, (name, class_index) in enumerate(zip(outputs.names, outputs.class_indices, strict=True)):
        arrays = {LOGITS: outputs.logits[index]}
        if outputs.features is not None:
            arrays[FEATURES] = outputs.features[index]
        collect(ImageOutputs(name, 1, 1, arrays=arrays), class_index)
    for failed in outputs.failed:
        collect(ImageOutputs(failed.name, error=failed.error), failed.class_index)
    evaluation = evaluate(collector, run, None)
    try:
        report = learn_calibration(
            logits.to_arrays(),
            run,
            {
                "truth": {"how": how, "file": None, "map": None},
                "classes": len(labels),
                "failed": len(outputs.failed),
            },
            origin=CALIBRATION,
            taxonomy=None,
            head_weight=outputs.head_weight,
        )
    except UsageError as error:
        return Measured(evaluation, None, str(error))
    if not report.helps:
        return Measured(evaluation, None, "a temperature does not make the probabilities of other images better")
    return Measured(evaluation, report, "")


def _to_truth(outputs: ValidationOutputs, labels: LabelSet, how: str) -> Truth:
    class_of = dict(zip(outputs.names, outputs.class_indices, strict=True))
    class_of |= {failed.name: failed.class_index for failed in outputs.failed}
    counts = Counter(class_of.values())
    return Truth(
        how=how,
        classes=tuple(
            TruthClass((label.label,), label.label, None, frozenset([label.class_index]), is_node=False)
            for label in labels.labels
        ),
        counts=tuple(counts[index] for index in range(len(labels))),
        _find=class_of.__getitem__,
    )
