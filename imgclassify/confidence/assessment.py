"""Says of each image how far its predictions can be trusted: its answer, its prediction set, its unfamiliarity."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from imgclassify.confidence.assessment_options import AssessmentOptions
from imgclassify.confidence.calibration import Calibration
from imgclassify.errors import UsageError
from imgclassify.results import Answer, Unfamiliarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.confidence.scoring import UnfamiliarityScorer
    from imgclassify.labels import LabelSet
    from imgclassify.labels.taxonomy import Taxonomy
    from imgclassify.results import RunInfo

logger = logging.getLogger("imgclassify")


class Assessment(NamedTuple):
    """What is said of one image. Each is None if it is not wanted."""

    answer: Answer | None
    prediction_set: tuple[str, ...] | None
    unfamiliar: Unfamiliarity | None


class Assessor:
    """Assesses the outputs of one model.

    Attributes:
        taxonomy: the tree that answers climb. None if none does.
    """

    def __init__(
        self,
        options: AssessmentOptions,
        labels: LabelSet,
        calibration: Calibration | None,
        scorer: UnfamiliarityScorer | None,
    ) -> None:
        """
        Args:
            labels: of the classes, in class-index order.
            calibration: what is known of the model. None if nothing is.
            scorer: measures unfamiliarity. None if it is not wanted.

        Raises:
            UsageError: the classes have no tree, or prediction sets are wanted and the calibration has no scores,
                or too few for this coverage.
        """
        self._options = options
        self._labels = labels
        self._scorer = scorer
        self.taxonomy = None if options.at_least is None else _load_taxonomy(labels, options.tree)
        self._find_set = None if options.sets is None else _set_finder(options, calibration)

    def assess(
        self,
        probabilities: NDArray[np.float32],
        raw_probabilities: NDArray[np.float32],
        features: NDArray[np.float32] | None,
    ) -> Assessment:
        """Assesses one image.

        Args:
            probabilities: (C,), 0..1, calibrated if the run is.
            raw_probabilities: (C,), 0..1, without a calibration.
            features: (D,): what the last linear layer sees. None if the network hands out none.
        """
        answer = self._find_answer(probabilities) if self._options.answers else None
        prediction_set = None
        if self._find_set:
            prediction_set = tuple(self._labels[index].label for index in self._find_set(probabilities))
        unfamiliar = self._scorer.score(raw_probabilities, features) if self._scorer else None
        return Assessment(answer, prediction_set, unfamiliar)

    def _find_answer(self, probabilities: NDArray[np.float32]) -> Answer:
        if self.taxonomy is not None:
            from imgclassify.confidence.rollup import climb

            assert self._options.at_least is not None
            found = climb(probabilities, self.taxonomy, self._options.at_least)
            return replace(found, probability=_clip(found.probability))
        best = int(probabilities.argmax())
        probability = _clip(probabilities[best])
        if probability < (self._options.threshold or 0):
            return Answer("unsure", None, None, probability)
        return Answer("leaf", self._labels[best].wnid, self._labels[best].label, probability)


def choose_calibration(
    wanted: bool | str | os.PathLike[str] | Calibration,
    run: RunInfo,
    find_known: Callable[[], Calibration | None],
    *,
    is_needed: bool,
) -> Calibration | None:
    """Returns the calibration that the probabilities of a run are computed with.

    Args:
        wanted: True for the one that is known, False for none unless `is_needed`, or a calibration or its file.
        find_known: returns the calibration that is known for the model, as `find_calibration`.
        is_needed: whether answers depend on it. If none is known, a warning says so.

    Raises:
        UsageError: it does not belong to the model, cannot be read, or none is known although it is wanted.
    """
    if wanted is False and not is_needed:
        return None
    if run.activation != "softmax":
        if wanted is not False:
            raise UsageError(
                f"the probabilities of {run.model} are not those of a softmax, so no temperature applies to them",
                hint="leave out --calibrated and --calibration",
            )
        logger.warning("%s has no softmax that could be calibrated, so its raw probabilities decide", run.model)
        return None
    if not isinstance(wanted, bool):
        chosen = wanted if isinstance(wanted, Calibration) else Calibration.read(Path(wanted))
        chosen.require_run(run.to_dict())
        return chosen
    found = find_known()
    if found is None and wanted:
        raise UsageError(
            f"no calibration of {run.model} is known for this preprocessing",
            hint="run `imgclassify calibrate FOLDER` on labelled images, or give --calibration FILE",
        )
    if found is None:
        logger.warning(
            "no calibration of %s is known, so its raw probabilities decide; "
            "`imgclassify calibrate` makes one from labelled images",
            run.model,
        )
    return found


def _load_taxonomy(labels: LabelSet, tree: str | os.PathLike[str] | None) -> Taxonomy:
    if tree is not None:
        from imgclassify.labels.taxonomy_file import read_taxonomy

        own = read_taxonomy(tree, labels)
        if own.num_unplaced:
            logger.warning(
                "%s names %d of %d classes; the others have no node above them",
                *(os.fspath(tree), len(labels) - own.num_unplaced, len(labels)),
            )
        return own
    from imgclassify.labels.taxonomy import wordnet_taxonomy

    return wordnet_taxonomy(labels)


def _set_finder(
    options: AssessmentOptions, calibration: Calibration | None
) -> Callable[[NDArray[np.float32]], list[int]]:
    """Returns a function from probabilities to the class indices of their prediction set."""
    from imgclassify.confidence.prediction_sets import conformal_quantile, lac_set, raps_set

    scores = calibration.sets if calibration else None
    if scores is None:
        raise UsageError(
            "prediction sets need the scores of labelled images"
            + (f", and the calibration of {calibration.origin} has none" if calibration else ""),
            hint="run `imgclassify calibrate FOLDER -o FILE` on labelled images, and give --calibration FILE",
        )
    assert options.sets is not None
    sorted_scores = scores.raps if options.set_method == "raps" else scores.lac
    quantile = conformal_quantile(sorted_scores, options.sets)
    if math.isinf(quantile):
        share = Fraction(repr(float(options.sets)))  # as it is written, as conformal_quantile takes it
        needed = math.ceil(share / (1 - share))
        raise UsageError(
            f"a coverage of {float(options.sets)} needs a calibration of at least {needed:,} images, and this one "
            f"has {len(sorted_scores):,}",
            hint="give a smaller --sets, or calibrate on more images",
        )
    if options.set_method == "raps":
        return lambda probabilities: list(map(int, raps_set(probabilities, quantile, scores.penalty, scores.k_reg)))
    return lambda probabilities: list(map(int, lac_set(probabilities, quantile)))


def _clip(probability: float) -> float:
    """Returns a sum of probabilities without its rounding beyond 1, and with the digits of a float32."""
    import numpy as np

    return float(str(np.float32(min(max(float(probability), 0), 1))))
