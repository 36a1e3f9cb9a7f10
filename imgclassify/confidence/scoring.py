"""Measures how unfamiliar an image is, by the best score that a model and its calibration allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from imgclassify.confidence.calibration import Familiar
from imgclassify.confidence.unfamiliarity import Familiarity, fit_familiarity, gen_score, nci_score, percentile
from imgclassify.errors import UsageError
from imgclassify.results import Unfamiliarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.confidence.calibration import Calibration

METHODS = ("nci+neighbours", "gen+neighbours", "nci", "gen")
"""From the best to the one that needs least. The first two need the features of familiar images, and those with
"nci" a head that is linear."""
MAX_FEATURES = 1000
"""The features of so many familiar images are kept."""

_BLOCK = 4096
"""Images that are measured at once, for the sake of memory."""


class UnfamiliarityScorer(NamedTuple):
    """Measures the images of one model."""

    method: str
    """One of METHODS."""
    head_weight: NDArray[np.float32] | None = None
    """(C, D): the weight of the last layer, for "nci"."""
    mean: NDArray[np.float64] | None = None
    """(D,): the mean feature of familiar images, for "nci"."""
    familiarity: Familiarity | None = None
    """For "neighbours"."""
    scores: NDArray[np.float64] | None = None
    """(N,), of familiar images, ascending. None without a calibration."""

    def score(self, probabilities: NDArray[np.float32], features: NDArray[np.float32] | None) -> Unfamiliarity:
        """Measures one image.

        Args:
            probabilities: (C,), 0..1, without a calibration.
            features: (D,). None if the method needs none.
        """
        value = float(self.score_answer(probabilities, features))
        if self.familiarity is not None:
            assert features is not None
            value = float(self.familiarity.score(features, value))
        share = None if self.scores is None else float(percentile(value, self.scores))
        return Unfamiliarity(value, share)

    def score_answer(
        self, probabilities: NDArray[np.float32], features: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        """Returns how strange the answer is, without a look at other images.

        Args:
            probabilities: (…, C).
            features: (…, D).
        """
        if not self.method.startswith("nci"):
            return gen_score(probabilities)
        assert features is not None
        assert self.head_weight is not None
        assert self.mean is not None
        weight = self.head_weight[probabilities.argmax(axis=-1)]
        return nci_score(features, weight, self.mean, **({"scale": 0.0} if self.familiarity else {}))


def choose_scorer(
    calibration: Calibration | None,
    *,
    has_features: bool,
    head_weight: NDArray[np.float32] | None,
    mean: NDArray[np.float64] | None,
) -> UnfamiliarityScorer:
    """Returns the best scorer for a model.

    Args:
        calibration: that the run uses, or that is known. Its familiar images decide if it has some.
        has_features: whether the engine hands out the features.
        head_weight: of the last layer; None if it is not linear, or not known.
        mean: the mean feature that ships for the weights; None if none does.

    Raises:
        UsageError: the calibration needs features, and the engine hands out none.
    """
    familiar = calibration.familiar if calibration else None
    if familiar is not None:
        return _from_familiar(familiar, str(calibration and calibration.origin), has_features, head_weight, mean)
    if has_features and head_weight is not None and mean is not None:
        return UnfamiliarityScorer("nci", head_weight, mean)
    return UnfamiliarityScorer("gen")


def _from_familiar(
    familiar: Familiar,
    origin: str,
    has_features: bool,
    head_weight: NDArray[np.float32] | None,
    mean: NDArray[np.float64] | None,
) -> UnfamiliarityScorer:
    import numpy as np

    needs_head = familiar.method.startswith("nci")
    if (familiar.method != "gen" and not has_features) or (needs_head and head_weight is None):
        raise UsageError(
            f"the calibration {origin!r} measures unfamiliarity by features, and this engine hands out none",
            hint="use the engine that it was made with, or run `imgclassify calibrate` again",
        )
    scores = np.array(familiar.scores)
    if familiar.features is None:
        return UnfamiliarityScorer(familiar.method, head_weight, mean, None, scores)
    assert familiar.answer_scores is not None
    if head_weight is not None and head_weight.shape[1] != familiar.features.shape[1]:
        raise UsageError(
            f"the features in the calibration {origin!r} have {familiar.features.shape[1]:,} values, and those of "
            f"this model have {head_weight.shape[1]:,}",
            hint="run `imgclassify calibrate` again",
        )
    known = fit_familiarity(familiar.features, familiar.answer_scores)
    center = familiar.features.mean(axis=0, dtype=np.float64)
    return UnfamiliarityScorer(familiar.method, head_weight, center, known, known.scores)


def learn_familiar(
    probabilities: NDArray[np.float32],
    features: NDArray[np.float32] | None,
    head_weight: NDArray[np.float32] | None,
) -> Familiar:
    """Learns from familiar images how they look to a model.

    Args:
        probabilities: (N, C), 0..1, without a calibration.
        features: (N, D); None if the engine hands out none.
        head_weight: (C, D); None if the last layer is not linear.
    """
    import numpy as np

    if features is None or len(features) < 2:
        blocks = (probabilities[start : start + _BLOCK] for start in range(0, len(probabilities), _BLOCK))
        return Familiar(
            "gen", tuple(sorted(each for block in blocks for each in gen_score(block).tolist())), None, None
        )
    kept = np.sort(np.random.default_rng(0).permutation(len(features))[:MAX_FEATURES])
    # As they are read from the file.
    rounded = features[kept].astype(np.float16).astype(np.float32)
    if head_weight is None:
        answer_scores, method = gen_score(probabilities[kept]), "gen+neighbours"
    else:
        weight = head_weight[probabilities[kept].argmax(axis=1)]
        answer_scores = nci_score(rounded, weight, rounded.mean(axis=0, dtype=np.float64), scale=0.0)
        method = "nci+neighbours"
    known = fit_familiarity(rounded, answer_scores)
    return Familiar(method, tuple(known.scores.tolist()), rounded, tuple(answer_scores.tolist()))
