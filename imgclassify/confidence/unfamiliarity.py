"""How strange an image is to a network: scores that are the higher, the less it looks like what was learned.

A score says nothing by itself: compare it with those of familiar images (`percentile`). GEN needs only
probabilities, and serves networks of any architecture. NCI needs the mean feature of familiar images, and
`Familiarity` the features of some. Energy, ASH and SCALE are not here, because they fail with transformers
(OpenOOD 1.5, ImageNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

__all__ = ["NCI_SCALE", "Familiarity", "fit_familiarity", "gen_score", "nci_score", "neighbour_score", "percentile"]

NCI_SCALE = 0.002
"""For the embedded model. Both terms of NCI then vary by the same amount: their standard deviations over 100
photographs of ImageNet's training set are 0.142 and 68.2. Other networks need other values."""
NEIGHBOUR = 10
"""Which of the nearest familiar images counts."""


def gen_score(probabilities: ArrayLike, gamma: float = 0.1, top: int = 100) -> NDArray[np.float64]:
    """Returns the generalised entropy of the largest probabilities: Σ p^γ (1 − p)^γ.

    Liu, Lochman and Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection", CVPR 2023.
    Their score has the other sign.

    Args:
        probabilities: (..., C), 0..1.
        gamma: above 0. With a small value, small probabilities count more.
        top: how many of the largest probabilities count. All if there are fewer.

    Returns:
        (...) float64, at least 0.
    """
    import numpy as np

    values = np.asarray(probabilities, np.float64)
    if top < values.shape[-1]:
        values = np.partition(values, -top, axis=-1)[..., -top:]
    # A float32 softmax may exceed 1 by its rounding.
    return np.asarray((np.maximum(values * (1 - values), 0) ** gamma).sum(axis=-1))


def nci_score(
    features: ArrayLike, class_weight: ArrayLike, mean: ArrayLike, scale: float = NCI_SCALE
) -> NDArray[np.float64]:
    """Returns the neural collapse score: −(w · (h − μ) / ‖h − μ‖₂ + scale · ‖h‖₁).

    Liu and Qin, "Detecting Out-of-Distribution through the Lens of Neural Collapse", CVPR 2025. Features of
    familiar images are long, and lie in the direction of the weights of their class.

    Args:
        features: (..., D), h.
        class_weight: (..., D), w: the row of the head's weight for the most probable class.
        mean: (D,), μ: the mean feature of familiar images (`feature_statistics.find_feature_mean`).
        scale: how much the length counts. 0 for the direction alone.

    Returns:
        (...) float64. Features that equal the mean have no direction: their first term is 0.
    """
    import numpy as np

    h, w, mu = (np.asarray(each, np.float64) for each in (features, class_weight, mean))
    offset = h - mu
    length = np.linalg.norm(offset, axis=-1)
    along = np.einsum("...d,...d->...", w, offset)
    direction = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    return np.asarray(-(direction + scale * np.abs(h).sum(axis=-1)))


def neighbour_score(features: ArrayLike, familiar: ArrayLike, k: int = NEIGHBOUR) -> NDArray[np.float64]:
    """Returns the negative cosine to the k-th nearest of the familiar features.

    Sun, Ming, Zhu and Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, by cosine.

    Args:
        features: (..., D).
        familiar: (M, D), the features of familiar images.
        k: from 1. The farthest counts if there are fewer.

    Returns:
        (...) float64, −1..1. Features of zeros have a cosine of 0 to all others.

    Raises:
        ValueError: there are no familiar features, or k is below 1.
    """
    import numpy as np

    known = _to_unit(np.asarray(familiar, np.float64))
    if not len(known) or k < 1:
        raise ValueError(f"the nearest of {len(known)} familiar features number {k} cannot be found")
    return -_nth_largest(_to_unit(np.asarray(features, np.float64)) @ known.T, min(k, len(known)))


def percentile(score: ArrayLike, familiar_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns which percentage of the scores of familiar images are lower.

    Args:
        score: (...), of any number of images.
        familiar_scores: (M,), ascending.

    Returns:
        (...) float64, 0..100. At 99, one familiar image of a hundred is as strange.

    Raises:
        ValueError: there are no familiar scores.
    """
    import numpy as np

    if not len(familiar_scores):
        raise ValueError("there are no scores of familiar images")
    below = np.searchsorted(familiar_scores, np.asarray(score, np.float64), side="left")
    return np.asarray(below * (100 / len(familiar_scores)))


class Familiarity(NamedTuple):
    """What is known of familiar images, made by `fit_familiarity`."""

    units: NDArray[np.float32]
    """(M, D), their features, with a Euclidean norm of 1."""
    k: int
    """Which of the nearest counts."""
    answer: tuple[float, float]
    """Mean and standard deviation of the scores of their answers."""
    neighbour: tuple[float, float]
    """Mean and standard deviation of their neighbour scores, each among the others."""
    scores: NDArray[np.float64]
    """(M,), their own scores, ascending, for `percentile`."""

    def score(self, features: ArrayLike, answer_score: ArrayLike) -> NDArray[np.float64]:
        """Returns the sum of the score of the answer and of the neighbour score, each standardised.

        Args:
            features: (..., D).
            answer_score: (...), the score that was given to `fit_familiarity`.

        Returns:
            (...) float64. Familiar images have a mean of 0.
        """
        import numpy as np

        # The units stay in float32, as their conversion would take longer than all else.
        cosines = _to_unit(np.asarray(features, np.float64)).astype(np.float32) @ self.units.T
        return self._combine(np.asarray(answer_score, np.float64), -_nth_largest(cosines, self.k))

    def _combine(self, answer: NDArray[Any], neighbour: NDArray[Any]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = _standardise(answer, self.answer) + _standardise(neighbour, self.neighbour)
        return total


def fit_familiarity(features: ArrayLike, answer_scores: ArrayLike, k: int = NEIGHBOUR) -> Familiarity:
    """Learns what familiar images look like.

    Args:
        features: (M, D), of familiar images. 30 are enough to be of use.
        answer_scores: (M,), how strange their answers are: `nci_score` with `features.mean(axis=0)` and a scale of
            0, or `gen_score` if the head is not linear.
        k: which of the nearest familiar images counts. The farthest if there are fewer.

    Raises:
        ValueError: there are fewer than two images, the shapes do not fit, or a value is not finite.
    """
    import numpy as np

    values, answers = np.asarray(features, np.float64), np.asarray(answer_scores, np.float64)
    if values.ndim != 2 or answers.shape != values.shape[:1] or len(values) < 2 or k < 1:
        raise ValueError(
            f"features are {values.shape}, scores {answers.shape} and k is {k}: (M, D), (M,) and 1 are the least, "
            "for at least two images"
        )
    if not (np.isfinite(values).all() and np.isfinite(answers).all()):
        raise ValueError("a feature or a score is not finite")
    k = min(k, len(values) - 1)
    units = _to_unit(values).astype(np.float32)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)  # no image is its own neighbour
    neighbours = -_nth_largest(cosines, k)
    known = Familiarity(units, k, _mean_and_std(answers), _mean_and_std(neighbours), answers)
    return known._replace(scores=np.sort(known._combine(answers, neighbours)))


def _to_unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: NDArray[np.float64] = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return units


def _nth_largest(values: NDArray[Any], n: int) -> NDArray[np.float64]:
    import numpy as np

    largest: NDArray[np.float64] = np.partition(values, -n, axis=-1)[..., -n].astype(np.float64)
    return largest


def _mean_and_std(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def _standardise(values: NDArray[Any], mean_and_std: tuple[float, float]) -> NDArray[np.float64]:
    mean, std = mean_and_std
    standard: NDArray[np.float64] = (values - mean) / (std or 1.0)
    return standard
