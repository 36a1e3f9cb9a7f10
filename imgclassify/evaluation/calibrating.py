"""Learns a calibration from the logits of labelled images, and measures on others whether it helps."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify._version import __version__
from imgclassify.confidence.calibration import Calibration, SetScores, Threshold
from imgclassify.confidence.prediction_sets import lac_scores, raps_scores
from imgclassify.confidence.rollup import ChainValues, chain_values, lowest_threshold, threshold_for_accuracy
from imgclassify.confidence.scoring import learn_familiar
from imgclassify.confidence.temperature import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, log_softmax
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.errors import UsageError
from imgclassify.evaluation.hierarchy import Areas, RollupFigures, rollup_areas, rollup_figures
from imgclassify.evaluation.intervals import Estimate, mean, normal_quantile
from imgclassify.evaluation.metrics import coverage_at, ece

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.evaluation.truth import Truth
    from imgclassify.labels.taxonomy import Taxonomy
    from imgclassify.runner import ImageOutputs

__all__ = ["CalibrationReport", "LabelledLogits", "LogitsCollector", "learn_calibration"]

FOLDS = 5
ACCURACIES = (0.9, 0.95, 0.99)
"""The accuracies that thresholds are told for."""
ROLLUPS = (0.5, 0.8, 0.9, 0.95)
"""The values of `at_least` whose answers are described."""
MIN_IMAGES = 20
"""With fewer images, the interval of a temperature is wider than what it could correct."""
RAPS_PENALTY, RAPS_K_REG = 0.01, 5
"""As in Angelopoulos et al. 2021, section 3.1. They are fixed, so that no image is spent on them."""


class LabelledLogits(NamedTuple):
    """What a network returns for labelled images."""

    logits: NDArray[np.float32]
    """(N, C)."""
    truth: NDArray[np.int64]
    """(N,): class indices."""
    features: NDArray[np.float32] | None
    """(N, D). None if the network hands out none."""


class LogitsCollector:
    """Collects the outputs of labelled images.

    Attributes:
        num_failed: how many images failed.
        num_repeated: how many were left out, because their source came before. In a cross-validation, an image must
            not be on both sides.
    """

    def __init__(self, truth: Truth) -> None:
        """
        Raises:
            UsageError: a true class stands for several classes of the model.
        """
        if groups := [each.name for each in truth.classes if len(each.class_indices) != 1]:
            raise UsageError(
                f"{groups[0]!r} stands for several classes, and a calibration needs the one that is right",
                hint="calibrate on images whose classes the model has",
            )
        self._truth = truth
        self._class_indices = [min(each.class_indices) for each in truth.classes]
        self._truths: array[int] = array("q")
        self._logits: array[float] = array("f")
        self._features: array[float] = array("f")
        self._seen: set[str] = set()
        self.num_failed = 0
        self.num_repeated = 0

    def add(self, image: ImageOutputs) -> None:
        """Takes the outputs of an image. Images without a truth, and repeated ones, are left out."""
        number = self._truth.class_of(image.source)
        if number is None:
            return
        if image.source in self._seen:
            self.num_repeated += 1
            return
        self._seen.add(image.source)
        if image.arrays is None:
            self.num_failed += 1
            return
        self._truths.append(self._class_indices[number])
        self._logits.frombytes(image.arrays[LOGITS].astype("float32").tobytes())
        if FEATURES in image.arrays:
            self._features.frombytes(image.arrays[FEATURES].astype("float32").tobytes())

    def to_arrays(self) -> LabelledLogits:
        """Returns what was collected.

        Raises:
            UsageError: there are too few images.
        """
        import numpy as np

        count = len(self._truths)
        if count < MIN_IMAGES:
            raise UsageError(
                f"{count} labelled images are too few to learn from", hint=f"give at least {MIN_IMAGES}, better 500"
            )
        logits, features = (
            np.frombuffer(column, np.float32).reshape(count, -1) for column in (self._logits, self._features)
        )
        return LabelledLogits(logits, np.frombuffer(self._truths, np.int64), features if features.size else None)


class CalibrationReport(NamedTuple):
    """A calibration, and what it does on images that it was not learned from."""

    calibration: Calibration
    temperature: Estimate
    improvement: Estimate
    """By how much the NLL of an image falls. Below zero if it rises."""
    helps: bool
    """Whether both the NLL and the ECE fall on images that the temperature was not fitted to."""
    rollups: tuple[RollupFigures, ...]
    """The answers with each of ROLLUPS as `at_least`. Empty if the classes have no tree."""
    areas: Areas | None
    """None if the classes have no tree."""


def learn_calibration(
    data: LabelledLogits,
    run: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    origin: str,
    taxonomy: Taxonomy | None,
    head_weight: NDArray[np.float32] | None,
) -> CalibrationReport:
    """Learns a calibration.

    The temperature is fitted to all images. NLL and ECE after it are those of a cross-validation: the images are
    split into FOLDS parts at random, and each is calibrated with the temperature that is fitted to the others.

    Args:
        run: RunInfo.to_dict of the run that the outputs come from.
        details: what else the file says.
        origin: names the file.
        taxonomy: of the classes. None if they have no tree.
        head_weight: (C, D), of the last layer; None if it is not linear, or not known.

    Raises:
        UsageError: no temperature has the least NLL, because all answers are right, or none is better than chance.
    """
    import numpy as np

    temperature = fit_temperature(data.logits, data.truth)
    if temperature in (MIN_TEMPERATURE, MAX_TEMPERATURE):
        raise _no_temperature(data, temperature)
    before = _score(data, np.ones(len(data.truth)))
    after = _score(data, _cross_validate(data))
    improvement = mean(before.nll - after.nll)
    ece_before, ece_after = (ece(each.confidence, before.correct) for each in (before, after))
    # As predict computes them, so that a set holds the truth if its score is small enough.
    probabilities = _to_probabilities(data.logits, temperature)
    climbed = chain_values(probabilities, data.truth, taxonomy) if taxonomy else None
    confidence = probabilities.max(axis=1).astype(np.float64)
    calibration = Calibration(
        origin=origin,
        temperature=temperature,
        images=len(data.truth),
        figures={
            "ece": {"before": ece_before.to_dict(), "after": ece_after.to_dict()},
            "nll": {"before": mean(before.nll).to_dict(), "after": mean(after.nll).to_dict()},
        },
        belongs_to=run,
        thresholds=tuple(_find_thresholds(confidence, before.correct)),
        rollup_thresholds=tuple(_find_rollup_thresholds(climbed)) if climbed else (),
        sets=_find_set_scores(probabilities, data.truth),
        familiar=learn_familiar(_to_probabilities(data.logits, 1.0), data.features, head_weight),
        details={"version": __version__, "validation": f"cross-validation in {FOLDS} parts", **details},
    )
    return CalibrationReport(
        calibration=calibration,
        temperature=_temperature_interval(data, temperature),
        improvement=improvement,
        helps=(improvement.value or 0) > 0 and (ece_after.value or 0) < (ece_before.value or 0),
        rollups=tuple(rollup_figures(climbed, ROLLUPS)) if climbed else (),
        areas=rollup_areas(climbed) if climbed else None,
    )


def _no_temperature(data: LabelledLogits, temperature: float) -> UsageError:
    """Returns the error about images whose best temperature is at an end of the range, or beyond it."""
    import numpy as np

    hint = "add images that are as hard as those that will be classified, and check --truth"
    of_truth = data.logits[np.arange(len(data.truth)), data.truth]
    if (data.logits.argmax(axis=1) == data.truth).all():
        what = "every answer is right"
    elif of_truth.mean(dtype=np.float64) <= data.logits.mean(dtype=np.float64):
        what = "the answers are no better than chance"  # the NLL falls towards T = infinity
    else:
        what = f"the best one is not between {MIN_TEMPERATURE:g} and {MAX_TEMPERATURE:g}"
        hint = "check --activation: the outputs do not seem to be the logits of a softmax; or the preprocessing"
    return UsageError(f"no temperature fits these images: {what}", hint=hint)


class _Scores(NamedTuple):
    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    nll: NDArray[np.float64]


_BLOCK = 4096
"""Images whose probabilities are computed at once, for the sake of memory."""


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _to_probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Returns the probabilities, (N, C), as predict computes them."""
    import numpy as np

    from imgclassify.engines.activation import softmax

    probabilities = np.empty_like(logits)
    for block in _blocks(len(logits)):
        probabilities[block] = softmax(logits[block] / np.float32(temperature))
    return probabilities


def _find_set_scores(probabilities: NDArray[np.float32], truth: NDArray[np.int64]) -> SetScores:
    lac, raps = [], []
    for block in _blocks(len(truth)):
        lac += lac_scores(probabilities[block], truth[block]).tolist()
        raps += raps_scores(probabilities[block], truth[block], RAPS_PENALTY, RAPS_K_REG).tolist()
    return SetScores(tuple(sorted(lac)), tuple(sorted(raps)), RAPS_PENALTY, RAPS_K_REG)


def _score(data: LabelledLogits, temperatures: NDArray[np.float64]) -> _Scores:
    """Scores each image with a temperature of its own, (N,)."""
    import numpy as np

    parts = []
    for block in _blocks(len(data.truth)):
        logs = log_softmax(data.logits[block] / temperatures[block, None])
        truth = data.truth[block]
        parts.append(
            (
                np.exp(logs.max(axis=1)),
                data.logits[block].argmax(axis=1) == truth,
                -logs[np.arange(len(truth)), truth],
            )
        )
    return _Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _cross_validate(data: LabelledLogits) -> NDArray[np.float64]:
    """Returns for each image the temperature that is fitted to the other parts."""
    import numpy as np

    count = len(data.truth)
    temperatures = np.empty(count)
    order = np.random.default_rng(0).permutation(count)
    for part in range(FOLDS):
        held_out = np.zeros(count, np.bool_)
        held_out[order[part::FOLDS]] = True
        temperatures[held_out] = fit_temperature(data.logits[~held_out], data.truth[~held_out])
    return temperatures


def _temperature_interval(data: LabelledLogits, temperature: float) -> Estimate:
    """Returns the temperature with its 95 % interval.

    The inverse temperature has the least NLL, so its variance is that of an M-estimator (Huber 1967): the sum of
    the squared slopes of all images, divided by the square of the summed curvature.
    """
    import numpy as np

    slopes, curvature = 0.0, 0.0
    for block in _blocks(len(data.truth)):
        logits = data.logits[block].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(log_softmax(logits, temperature))
        expected = (probabilities * logits).sum(axis=1)
        own = logits[np.arange(len(logits)), data.truth[block]]
        slopes += float(((expected - own) ** 2).sum())
        curvature += float(((probabilities * logits**2).sum(axis=1) - expected**2).sum())
    inverse, error = 1 / temperature, slopes**0.5 / curvature
    low, high = inverse - normal_quantile(0.95) * error, inverse + normal_quantile(0.95) * error
    return Estimate(temperature, 1 / high, 1 / low if low > 0 else None)


def _find_thresholds(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> Iterator[Threshold]:
    """Yields the thresholds of the best class's probability that give the accuracies, where one does."""
    for accuracy in ACCURACIES:
        found = coverage_at(confidence, correct, accuracy)
        if found.threshold is not None and found.share.value is not None:
            yield Threshold(accuracy, found.threshold, found.share.value)


def _find_rollup_thresholds(values: ChainValues) -> Iterator[Threshold]:
    """Yields the `at_least` with which new answers are right with these probabilities, where there is one."""
    import math

    lowest = lowest_threshold(values)
    for accuracy in ACCURACIES:
        threshold = threshold_for_accuracy(lowest, accuracy)
        if math.isfinite(threshold):
            answered = float((values.answers(threshold) < values.lengths).mean())
            yield Threshold(accuracy, threshold, answered)
