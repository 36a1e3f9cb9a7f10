"""The figures of an evaluation: how often the answers are right, and what their confidence is worth.

All are functions of arrays with one entry an image: `correct` (N,) bool, `confidence` (N,) float64, the probability
of the predicted class, in 0..1, and `truth` and `predicted`, (N,) ids of classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.evaluation.intervals import LEVEL, Estimate, bootstrap, mean, normal_quantile, resample, wilson

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

BINS = 15
"""As in Guo et al. 2017."""
RESAMPLES = 1000
_MAX_ROUNDING = 1e-6
"""A sum of probabilities may be so much above 1."""


class ReliabilityBin(NamedTuple):
    """The images whose confidence lies in a range."""

    low: float
    high: float
    count: int  # type: ignore[assignment] # hides tuple.count
    confidence: float | None
    """The mean. None without images."""
    accuracy: float | None


class Coverage(NamedTuple):
    """The largest share of images that can be answered at an accuracy."""

    share: Estimate
    threshold: float | None
    """Images with this confidence or more are answered. None if none can be."""


class ThresholdRow(NamedTuple):
    """What is answered, and how well, if only images with this confidence or more are answered."""

    threshold: float
    count: int  # type: ignore[assignment] # hides tuple.count
    """The answered images."""
    answered: Estimate
    """Their share."""
    accuracy: Estimate
    """The share of them that is correct."""


class ClassFigures(NamedTuple):
    """How well one class is found, with Wilson's intervals."""

    class_id: int
    count: int  # type: ignore[assignment] # hides tuple.count
    """Images of the class."""
    predicted: int
    """Images that are said to be of the class."""
    precision: Estimate
    """Without a value if the class was never predicted."""
    recall: Estimate
    """Without a value if no image is of the class, as `f1`."""
    f1: Estimate
    """0 if no image of the class was found, as with zero_division=0 in scikit-learn."""


class Confusion(NamedTuple):
    """How many images of one class were taken for another one."""

    truth: int
    predicted: int
    count: int  # type: ignore[assignment] # hides tuple.count


def accuracy(correct: Bools) -> Estimate:
    """The share of `correct`, with Wilson's interval."""
    import numpy as np

    return wilson(int(np.count_nonzero(correct)), len(correct))


def mean_loss(losses: Floats) -> Estimate:
    """The mean of a loss of each image, (N,), such as the negative log-likelihood or the Brier score.

    No loss is below 0, and so no mean is: the interval ends there. Infinite, and without an interval, if a loss is.

    Raises:
        ValueError: a loss is NaN.
    """
    import numpy as np

    if np.isnan(losses).any():
        raise ValueError(f"The loss of image {int(np.isnan(losses).argmax())} is NaN.")
    estimate = mean(losses)
    return estimate if estimate.low is None else estimate._replace(low=max(estimate.low, 0.0))


def balanced_accuracy(truth: Integers, correct: Bools) -> Estimate:
    """The mean of the recalls of the classes that occur, each with the same weight.

    The interval is Wilson's, with the effective number of images: the one for which a share would have the
    variance of this mean, as for samples with a design (Korn and Graubard 1998). The recall of a class enters the
    variance as the middle of its own Wilson interval, so that a class of one image has some. The bootstrap would
    not do. In simulations with 1 to 1000 images a class, 93 to 97 % of these intervals held the true mean, but of
    the bootstrap's 84 to 96 % (drawn from all images) or 0 to 96 % (drawn within each class).
    """
    import numpy as np

    if not len(truth):
        return Estimate(None)
    counts = np.bincount(truth)
    occurs = counts > 0
    counts = counts[occurs]
    hits = np.bincount(truth, weights=correct)[occurs]
    value = float(np.mean(hits / counts))
    if len(truth) == 1:
        return Estimate(value)
    square = normal_quantile(LEVEL) ** 2
    recalls = (hits + square / 2) / (counts + square)
    variance = float(np.sum(recalls * (1 - recalls) / counts)) / len(counts) ** 2
    effective = float(recalls.mean() * (1 - recalls.mean())) / variance
    return wilson(value * effective, effective)._replace(value=value)


def ece(confidence: Floats, correct: Bools, bins: int = BINS, *, resamples: int = RESAMPLES) -> Estimate:
    """The expected calibration error of Guo et al. 2017: the mean of |accuracy - confidence| over bins.

    Bin m of M holds the confidences in ((m - 1) / M, m / M], and the first one 0 too. Each counts by its images.
    The interval allows for the bias of the figure, see `_calibration_error`.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    _check_confidence(confidence)
    return _calibration_error(confidence, correct, _equal_width(confidence, bins), resamples)


def ece_equal_mass(confidence: Floats, correct: Bools, bins: int = BINS, *, resamples: int = RESAMPLES) -> Estimate:
    """The expected calibration error over bins with the same number of images (Nguyen and O'Connor 2015).

    Images of equal confidence are in the same bin, the one of their mean rank, so the order of the images does not
    matter. Thus bins differ in size where confidences are equal, and may be empty.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    _check_confidence(confidence)
    return _calibration_error(confidence, correct, _equal_mass(confidence, bins), resamples)


def reliability_bins(
    confidence: Floats, correct: Bools, bins: int = BINS, *, equal_mass: bool = False
) -> list[ReliabilityBin]:
    """The bins of `ece`, or those of `ece_equal_mass`, for a table or a diagram.

    Bins of equal width are all listed, with their edges. Bins of equal mass are listed if they hold images, with
    their smallest and largest confidence.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    import numpy as np

    _check_confidence(confidence)
    numbers = _equal_mass(confidence, bins) if equal_mass else _equal_width(confidence, bins)
    edges = _edges(bins)
    rows = []
    for number in range(bins):
        inside = numbers == number
        count = int(np.count_nonzero(inside))
        low, high = float(edges[number]), float(edges[number + 1])
        if equal_mass:
            if not count:
                continue
            low, high = float(confidence[inside].min()), float(confidence[inside].max())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (None, None)
        rows.append(ReliabilityBin(low, high, count, *means))
    return rows


def aurc(confidence: Floats, correct: Bools, *, resamples: int = RESAMPLES) -> Estimate:
    """The area under the curve of risk and coverage: 0 is best (Geifman, Uziel and El-Yaniv 2019).

    The images are ranked by falling confidence. The area is the mean over k of the share of errors among the first
    k. For images of equal confidence it is the expected area over all their orders.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    import numpy as np

    if not len(confidence):
        return Estimate(None)
    order, starts = _tie_groups(confidence)
    wrong = (~correct[order]).astype(np.int64)
    ranks = np.arange(1, len(confidence) + 1)

    def area(weights: Integers) -> float:
        counts = _sum_groups(weights, starts)
        shares = _sum_groups(weights * wrong, starts) / np.maximum(counts, 1)
        return float(np.mean(np.cumsum(np.repeat(shares, counts)) / ranks))

    return bootstrap(area, len(confidence), resamples=resamples)


def coverage_at(confidence: Floats, correct: Bools, accuracy: float, *, resamples: int = RESAMPLES) -> Coverage:
    """The largest share of images that a threshold of the confidence can answer with at least this accuracy.

    It is chosen on the images that it is measured on. For other images, the same threshold may give a little less.

    Args:
        accuracy: 0..1, of the answered images.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    import numpy as np

    if not len(confidence):
        return Coverage(Estimate(None), None)
    order, starts = _tie_groups(confidence)
    right = correct[order].astype(np.int64)

    def last_group(weights: Integers) -> tuple[int, int]:
        """The index of the last group to be answered, or -1, and the number of images up to it."""
        counts = np.cumsum(_sum_groups(weights, starts))
        hits = np.cumsum(_sum_groups(weights * right, starts))
        enough = np.flatnonzero((counts > 0) & (hits / np.maximum(counts, 1) >= accuracy))
        return (int(enough[-1]), int(counts[enough[-1]])) if len(enough) else (-1, 0)

    count = len(confidence)
    share = bootstrap(lambda weights: last_group(weights)[1] / count, count, resamples=resamples)
    group, _ = last_group(np.ones(count, np.int64))
    return Coverage(share, float(confidence[order[starts[group]]]) if group >= 0 else None)


def accuracy_above(confidence: Floats, correct: Bools, thresholds: Iterable[float]) -> list[ThresholdRow]:
    """How many images would be answered above each threshold, and how well. It tells which threshold to choose.

    Raises:
        ValueError: a confidence is not in 0..1.
    """
    _check_confidence(confidence)
    rows = []
    for threshold in thresholds:
        answered = confidence >= threshold
        share = accuracy(answered)
        rows.append(ThresholdRow(threshold, int(answered.sum()), share, accuracy(correct[answered])))
    return rows


def class_figures(truth: Integers, predicted: Integers, num_classes: int) -> list[ClassFigures]:
    """Count, precision, recall and F1 of each class, in the order of their ids.

    Args:
        truth: ids of 0..num_classes - 1.
        predicted: any ids. Those that are no class of the truth count as mistakes.

    Raises:
        ValueError: an id of `truth` is outside 0..num_classes - 1.
    """
    import numpy as np

    if len(truth) and not 0 <= truth.min() <= truth.max() < num_classes:
        raise ValueError(f"The ids of the truth are {truth.min()}..{truth.max()}, of {num_classes} classes.")
    counts = np.bincount(truth, minlength=num_classes).tolist()
    hits = np.bincount(truth[truth == predicted], minlength=num_classes).tolist()
    known = predicted[(predicted >= 0) & (predicted < num_classes)]
    claims = np.bincount(known, minlength=num_classes).tolist()
    return [
        ClassFigures(
            class_id,
            count,
            claimed,
            precision=wilson(hit, claimed),
            recall=wilson(hit, count),
            f1=_f1(hit, count, claimed),
        )
        for class_id, (count, claimed, hit) in enumerate(zip(counts, claims, hits, strict=True))
    ]


def _f1(hits: int, count: int, claimed: int) -> Estimate:
    """Returns the F1 of a class.

    It is 2 J / (1 + J), where J is the Jaccard index: the hits among all images that are of the class or are said
    to be. So its interval is Wilson's for J, transformed.
    """
    if not count:
        return Estimate(None)
    index = wilson(hits, count + claimed - hits)
    return Estimate(*(None if share is None else 2 * share / (1 + share) for share in index))


def largest_confusions(truth: Integers, predicted: Integers, count: int) -> list[Confusion]:
    """The most frequent mistakes, the largest first, and equal ones in the order of the ids."""
    import numpy as np

    wrong = truth != predicted
    pairs, counts = np.unique(np.stack([truth[wrong], predicted[wrong]]), axis=1, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:count]  # np.unique has sorted the pairs
    return [Confusion(int(pairs[0, index]), int(pairs[1, index]), int(counts[index])) for index in first]


def _calibration_error(confidence: Floats, correct: Bools, numbers: Integers, resamples: int) -> Estimate:
    """The mean over images of |accuracy - confidence| of their bins, with an interval that allows for its bias.

    Noise opens gaps: the figure of a calibrated classifier is above 0, and that of a resample is above that of the
    images. So the percentiles of the resamples miss the true error, and always so if the classifier is calibrated.

    - The lower limit is that of the basic interval (Davison and Hinkley 1997, 5.2), of resamples in which the gaps
      have been closed that calibrated images would show too.
    - The upper limit is that of the percentiles, moved down by the distance of their mean from the figure.

    In simulations of 200 to 5000 images with true errors of 0, 2, 5 and 10 %, 86 to 100 % of the intervals held it.

    Args:
        numbers: (N,), the bin of each image.
    """
    import numpy as np

    count = len(confidence)
    if not count:
        return Estimate(None)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(_begins(numbers[order]))
    gaps = (correct - confidence)[order]
    sums = np.add.reduceat(gaps, starts)
    value = float(np.abs(sums).sum() / count)
    if count == 1:
        return Estimate(value)
    sizes = np.diff(starts, append=count)
    variances = (confidence * (1 - confidence)).clip(0)[order]  # of `correct`, if calibrated
    noise = normal_quantile(LEVEL) * np.sqrt(np.add.reduceat(variances, starts))
    closed = np.where(np.abs(sums) <= noise, sums / sizes, 0.0)
    as_they_are, with_closed = np.empty((2, resamples))
    for index, weights in enumerate(resample(count, resamples)):
        drawn = np.add.reduceat(weights * gaps, starts)
        as_they_are[index] = np.abs(drawn).sum() / count
        with_closed[index] = np.abs(drawn - closed * np.add.reduceat(weights, starts)).sum() / count
    expected = float(np.abs(sums - closed * sizes).sum() / count)
    low = value - float(np.quantile(with_closed, (1 + LEVEL) / 2)) + expected
    high = value + float(np.quantile(as_they_are, (1 + LEVEL) / 2) - as_they_are.mean())
    return Estimate(value, min(max(low, 0.0), value), min(max(high, value), 1.0))


def _edges(bins: int) -> Floats:
    """(bins + 1,): m / bins, rounded once, so that a confidence of m / bins lies on its edge.

    np.linspace rounds twice. For 15 bins it gives the same, for 10 it does not.
    """
    import numpy as np

    return np.arange(bins + 1) / bins


def _equal_width(confidence: Floats, bins: int) -> Integers:
    """(N,): the bin of each confidence, closed on the right."""
    import numpy as np

    return (np.searchsorted(_edges(bins), confidence, side="left") - 1).clip(0, bins - 1)


def _equal_mass(confidence: Floats, bins: int) -> Integers:
    """(N,): the bin of the mean rank of each confidence among equal ones."""
    import numpy as np

    ordered = np.sort(confidence)
    below = np.searchsorted(ordered, confidence, side="left")
    up_to = np.searchsorted(ordered, confidence, side="right")
    return (below + up_to) * bins // (2 * max(len(confidence), 1))


def _tie_groups(confidence: Floats) -> tuple[Integers, Integers]:
    """The order of falling confidence, (N,), and where in it each group of equal confidences begins."""
    import numpy as np

    _check_confidence(confidence)
    order = np.argsort(-confidence, kind="stable")
    return order, np.flatnonzero(_begins(confidence[order]))


def _sum_groups(values: Integers, starts: Integers) -> Integers:
    """The sum of each group, (G,). Most often each image is a group of its own."""
    import numpy as np

    return values if len(starts) == len(values) else np.add.reduceat(values, starts)


def _begins(ordered: NDArray[Any]) -> Bools:
    """(N,): whether an element differs from the one before."""
    import numpy as np

    return np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.bool_)


def _check_confidence(confidence: Floats) -> None:
    import numpy as np

    outside = ~((confidence >= 0) & (confidence <= 1 + _MAX_ROUNDING))  # so is NaN
    if outside.any():
        index = int(np.argmax(outside))
        raise ValueError(f"The confidence of image {index} must be in 0..1, but it is {confidence[index]}.")
