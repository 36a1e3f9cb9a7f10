"""The figures of an evaluation, and the document that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.evaluation import metrics as metric_functions
from imgclassify.evaluation.collector import Collector, ImageArrays
from imgclassify.evaluation.hierarchy import Distance, hierarchical_distances
from imgclassify.evaluation.index_shift import describe_index_shift
from imgclassify.evaluation.intervals import Estimate, mean, wilson
from imgclassify.evaluation.label_errors import find_label_errors

if TYPE_CHECKING:
    from imgclassify.evaluation.truth import Truth, TruthClass
    from imgclassify.labels.taxonomy import Taxonomy
    from imgclassify.results import Answer

__all__ = ["SCHEMA", "Evaluation", "evaluate"]

SCHEMA = "imgclassify.evaluation/1"
"""Identifies the structure of the document. A breaking change increases the number."""
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""The thresholds whose accuracy is told."""
MAX_LISTED = 100
"""At most so many confusions and likely label errors are listed."""


class ClassRow(NamedTuple):
    """How well one class is found."""

    label: str
    wnid: str | None
    count: int  # type: ignore[assignment] # hides tuple.count
    """Images of the class that have predictions."""
    failed: int
    """Images of the class that failed."""
    predicted: int
    """Images of any class that are said to be of this one."""
    precision: Estimate
    """Without a value if the class was never predicted."""
    recall: Estimate
    f1: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, with three for each figure: `recall`, `recall_low` and `recall_high`."""
        values = self._asdict()
        for name in ("precision", "recall", "f1"):
            estimate = values[name]
            values |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return values


class ConfusionRow(NamedTuple):
    """How many images of one class were taken for another one."""

    truth: str
    predicted: str
    count: int  # type: ignore[assignment] # hides tuple.count


class MistakeRow(NamedTuple):
    """Mistakes whose answer was at least right about a node of the tree: "wrong, but a dog"."""

    label: str | None
    """None for mistakes that have nothing in common with the truth that is worth saying."""
    wnid: str | None
    count: int  # type: ignore[assignment] # hides tuple.count


class FailureRow(NamedTuple):
    """An image that failed."""

    source: str
    type: str
    message: str


class LabelErrorRow(NamedTuple):
    """An image that is probably of another class than its truth says."""

    source: str
    truth: str
    truth_probability: float
    suggested: str
    suggested_probability: float


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The figures of one model on labelled images."""

    run: Mapping[str, Any]
    """RunInfo.to_dict of the run that the predictions come from."""
    truth: Truth
    arrays: ImageArrays
    sources: list[str]
    """The name of each image with predictions, in the order of `arrays`."""
    error_types: Mapping[str, int]
    """How many images failed, by the type of error."""
    failures: tuple[FailureRow, ...]
    """The first of them."""
    metrics: dict[str, Estimate]
    """By name, as in the document. A figure that is not known has the value None."""
    thresholds_for: dict[str, float | None]
    """"coverage_at_95" and "coverage_at_99" → the threshold that gives this coverage."""
    classes: tuple[ClassRow, ...]
    """In the order of `truth.classes`."""
    confusions: tuple[ConfusionRow, ...]
    """The largest first."""
    mistakes: tuple[MistakeRow, ...] | None
    """The most frequent first. None if the classes have no tree."""
    label_errors: tuple[LabelErrorRow, ...]
    """The likeliest first."""
    num_label_errors: int
    above: tuple[metric_functions.ThresholdRow, ...]
    answers: dict[str, Estimate] | None
    """None unless the records have answers."""
    sets: dict[str, Estimate] | None
    """None unless the records have prediction sets."""

    @property
    def images(self) -> int:
        """How many images have predictions and a truth."""
        return len(self.arrays.truth)

    @property
    def failed(self) -> int:
        """How many images with a truth failed."""
        return sum(self.error_types.values())

    @property
    def ignored(self) -> int:
        """How many images are left out because they have no truth among the classes of the model."""
        return sum(self.truth.ignored.values()) + self.truth.without_truth

    def to_dict(self) -> dict[str, Any]:
        """Returns the document of `evaluate --json` (docs/evaluation.md)."""
        return {
            "schema": SCHEMA,
            "run": dict(self.run),
            "truth": self.truth.to_dict(),
            "images": self.images,
            "failed": self.failed,
            "errors": dict(self.error_types),
            "failures": [row._asdict() for row in self.failures],
            "ignored": self.ignored,
            "metrics": {name: estimate.to_dict() for name, estimate in self.metrics.items()},
            "thresholds_for": self.thresholds_for,
            "classes": [row.to_dict() for row in self.classes],
            "confusions": [row._asdict() for row in self.confusions],
            "mistakes": None if self.mistakes is None else [row._asdict() for row in self.mistakes],
            "label_errors": [row._asdict() for row in self.label_errors],
            "num_label_errors": self.num_label_errors,
            "reliability": [row._asdict() for row in self.reliability()],
            "thresholds": [
                row._asdict() | {"answered": row.answered.to_dict(), "accuracy": row.accuracy.to_dict()}
                for row in self.above
            ],
            "answers": _to_dicts(self.answers),
            "sets": _to_dicts(self.sets),
        }

    def reliability(self) -> list[metric_functions.ReliabilityBin]:
        """Returns the bins of the ECE."""
        return metric_functions.reliability_bins(self.arrays.confidence, self.arrays.correct)


def _to_dicts(estimates: dict[str, Estimate] | None) -> dict[str, Any] | None:
    return None if estimates is None else {name: each.to_dict() for name, each in estimates.items()}


def evaluate(collector: Collector, run: Mapping[str, Any], taxonomy: Taxonomy | None) -> Evaluation:
    """Computes the figures of an evaluation.

    Args:
        collector: has all records. It must not be used afterwards.
        run: RunInfo.to_dict of the run that the records come from.
        taxonomy: of the classes of the model. None if they have no tree.

    Raises:
        UsageError: only some of the records have an answer or a prediction set.
    """
    for name, found in (("an answer", collector.answers), ("a prediction set", collector.sets)):
        if found and len(found) < len(collector.sources):
            raise UsageError(
                f"only {len(found):,} of {len(collector.sources):,} records have {name}",
                hint="evaluate the records of one run, with the same options for all images",
            )
    arrays = collector.to_arrays()
    truth = _with_index_shift(collector.truth, arrays, len(collector.labels))
    figures, thresholds_for = _compute_metrics(arrays, collector)
    names = _Names(collector)
    mistakes = None
    if taxonomy is not None:
        distances = _find_distances(arrays, collector.truth.classes, taxonomy)
        figures["hierarchical_distance"] = mean(_float_array([each.height for each in distances]))
        mistakes = _count_mistakes(distances)
    label_errors = _find_label_errors(arrays, collector, names)
    return Evaluation(
        run=run,
        truth=truth,
        arrays=arrays,
        sources=collector.sources,
        error_types=dict(collector.error_types.most_common()),
        failures=tuple(FailureRow(source, error.type, error.message) for source, error in collector.failures),
        metrics=figures,
        thresholds_for=thresholds_for,
        classes=_describe_classes(arrays, collector),
        confusions=tuple(
            ConfusionRow(names[each.truth], names[each.predicted], each.count)
            for each in metric_functions.largest_confusions(arrays.truth, arrays.predicted, MAX_LISTED)
        ),
        mistakes=mistakes,
        label_errors=tuple(label_errors[:MAX_LISTED]),
        num_label_errors=len(label_errors),
        above=tuple(metric_functions.accuracy_above(arrays.confidence, arrays.correct, THRESHOLDS)),
        answers=_judge_answers(arrays, collector, taxonomy) if collector.answers else None,
        sets=_judge_sets(collector.sets) if collector.sets else None,
    )


def _with_index_shift(truth: Truth, arrays: ImageArrays, num_classes: int) -> Truth:
    """Returns the truth with a note if its class indices seem to count from another number than the model's."""
    import numpy as np

    if any(len(each.class_indices) != 1 for each in truth.classes):
        return truth
    right = np.array([min(each.class_indices) for each in truth.classes], np.int64)[arrays.truth]
    note = describe_index_shift(arrays.class_index, right, truth, num_classes)
    return replace(truth, notes=(*truth.notes, note)) if note else truth


class _Names:
    """The labels of true and predicted classes, by their positions as in ImageArrays.predicted."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def __getitem__(self, position: int) -> str:
        classes = self._collector.truth.classes
        if position < len(classes):
            return classes[position].label
        return self._collector.labels[position - len(classes)].label


def _compute_metrics(
    arrays: ImageArrays, collector: Collector
) -> tuple[dict[str, Estimate], dict[str, float | None]]:
    import numpy as np

    correct, confidence = arrays.correct, arrays.confidence
    total = len(correct) + sum(collector.num_failed.values())
    # Of five classes, the true one is always among the five most probable.
    knows_five = len(collector.labels) > 5 and (collector.max_rank is None or collector.max_rank >= 5)
    at_95, at_99 = (metric_functions.coverage_at(confidence, correct, accuracy) for accuracy in (0.95, 0.99))
    figures = {
        "acc1": metric_functions.accuracy(correct),
        "acc5": metric_functions.accuracy((arrays.rank >= 1) & (arrays.rank <= 5))
        if knows_five
        else Estimate(None),
        "acc1_with_failed": wilson(int(correct.sum()), total),
        "balanced_accuracy": metric_functions.balanced_accuracy(arrays.truth, correct),
        "nll": Estimate(None) if np.isnan(arrays.nll).any() else metric_functions.mean_loss(arrays.nll),
        "brier": Estimate(None) if np.isnan(arrays.brier).any() else metric_functions.mean_loss(arrays.brier),
        "ece": metric_functions.ece(confidence, correct),
        "ece_equal_mass": metric_functions.ece_equal_mass(confidence, correct),
        "aurc": metric_functions.aurc(confidence, correct),
        "coverage_at_95": at_95.share,
        "coverage_at_99": at_99.share,
        "hierarchical_distance": Estimate(None),
    }
    return figures, {"coverage_at_95": at_95.threshold, "coverage_at_99": at_99.threshold}


def _describe_classes(arrays: ImageArrays, collector: Collector) -> tuple[ClassRow, ...]:
    rows = metric_functions.class_figures(arrays.truth, arrays.predicted, len(collector.truth.classes))
    return tuple(
        ClassRow(
            label=known.label,
            wnid=known.wnid,
            count=row.count,
            failed=collector.num_failed[row.class_id],
            predicted=row.predicted,
            precision=row.precision,
            recall=row.recall,
            f1=row.f1,
        )
        for row, known in zip(rows, collector.truth.classes, strict=True)
    )


def _find_distances(arrays: ImageArrays, classes: Any, taxonomy: Taxonomy) -> list[Distance]:
    """Returns the distance of each mistake."""
    wrong = ~arrays.correct
    pairs = zip(arrays.truth[wrong].tolist(), arrays.class_index[wrong].tolist(), strict=True)
    return [_distance(classes[truth], answer, taxonomy) for truth, answer in pairs]


def _distance(truth: TruthClass, answer: int, taxonomy: Taxonomy) -> Distance:
    """Returns the distance to the truth, or to the nearest of several classes that would be right."""
    if truth.is_node and truth.wnid is not None and truth.wnid in taxonomy.under:
        return hierarchical_distances([(truth.wnid, answer)], taxonomy)[0]
    near = hierarchical_distances([(index, answer) for index in sorted(truth.class_indices)], taxonomy)
    return min(near, key=lambda distance: distance.height)


def _count_mistakes(distances: list[Distance]) -> tuple[MistakeRow, ...]:
    counts = Counter((each.label, each.wnid) for each in distances)
    return tuple(MistakeRow(label, wnid, count) for (label, wnid), count in counts.most_common())


def _find_label_errors(arrays: ImageArrays, collector: Collector, names: _Names) -> list[LabelErrorRow]:
    import numpy as np

    known = np.flatnonzero(~np.isnan(arrays.probability))
    found = find_label_errors(
        arrays.truth[known], arrays.top_classes[known], arrays.top_probabilities[known], arrays.probability[known]
    )
    return [
        LabelErrorRow(
            collector.sources[known[each.image]],
            names[each.truth],
            each.truth_probability,
            names[each.suggested],
            each.suggested_probability,
        )
        for each in found
    ]


def _judge_answers(arrays: ImageArrays, collector: Collector, taxonomy: Taxonomy | None) -> dict[str, Estimate]:
    """Returns how often answers are right, and how specific they are.

    Both are without a value if an answer is a node that the tree does not have: that of another run may have it.
    """
    from imgclassify.confidence.rollup import information

    total, num_classes = len(collector.answers), len(collector.labels)
    kinds, num_right, open_classes, is_known = Counter[str](), 0, [], True
    for truth, index, answer in zip(arrays.truth, arrays.class_index.tolist(), collector.answers, strict=True):
        kinds[answer.kind] += 1
        if answer.kind == "unsure":
            open_classes.append(num_classes)
            continue
        under = {index} if answer.kind == "leaf" else _classes_under(answer, index, taxonomy)
        right = collector.truth.classes[truth].class_indices
        is_known &= bool(under)
        num_right += right <= under or under <= right
        open_classes.append(max(len(under), 1))
    return {
        "right": wilson(num_right, total - kinds["unsure"]) if is_known else Estimate(None),
        **{kind: wilson(kinds[kind], total) for kind in ("leaf", "rollup", "unsure")},
        "bits": mean(information(open_classes, num_classes)) if is_known else Estimate(None),
    }


def _classes_under(answer: Answer, best: int, taxonomy: Taxonomy | None) -> Set[int]:
    """Returns the classes under the node that an answer names. None if it is not above the best class."""
    nodes = [taxonomy.nodes[position] for position in taxonomy.chains[best]] if taxonomy else []
    names = (answer.wnid, answer.label)
    return next((frozenset(node.class_indices) for node in nodes if (node.wnid, node.label) == names), frozenset())


def _judge_sets(sets: list[tuple[int, bool | None]]) -> dict[str, Estimate]:
    """Returns how often a set holds the truth, without a value if one does not tell, and how large it is."""
    holding = [holds for _, holds in sets if holds is not None]
    return {
        "coverage": wilson(sum(holding), len(sets)) if len(holding) == len(sets) else Estimate(None),
        "size": mean(_float_array([size for size, _ in sets])),
    }


def _float_array(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.float64)
