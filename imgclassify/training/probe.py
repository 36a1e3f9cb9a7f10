"""Fits a probe: a new last layer on the features of a frozen network, by scikit-learn's logistic regression."""

from __future__ import annotations

import logging
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.confidence.temperature import fit_temperature, log_softmax
from imgclassify.engines import devices
from imgclassify.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]
    Integers = NDArray[np.int64]

logger = logging.getLogger("imgclassify")

STRENGTHS = (1e-5, 3e-5, 1e-4, 3e-4, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""The values of C that may be tried, from the strongest regularization to the weakest."""
DEFAULT_STRENGTH = 0.01
"""The C for images that are too few for cross-validation. The best one is near it for most datasets."""

_LARGE = 2**23
"""More features than this in all, such as 1,280 of 6,553 images, are computed with in float32 and fewer folds."""
_FOLDS = 5
_FEW_FOLDS = 3
"""The more images there are, the less it matters which of them are in a fold."""
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-6
"""The largest component of the gradient of the mean loss at which the regression ends. With scikit-learn's default,
which is _TRIAL_TOLERANCE, probabilities may differ by half a percent from those at the minimum."""
_TRIAL_TOLERANCE = 1e-4
"""The same for the regressions that only compare strengths."""
_CONSTANT = 1e-6
"""A feature that varies by less than this part of its mean is constant, but for float32's rounding."""
_BLOCK = 1024
"""Rows that are looked at together, where that limits memory."""


class Probe(NamedTuple):
    """A last layer: `logits = features @ weight.T + bias`."""

    weight: NDArray[np.float32]
    """(K, D), for features as the network computes them."""
    bias: NDArray[np.float32]
    """(K,)."""
    strength: float
    """C of scikit-learn's LogisticRegression on standardized features. The smaller, the stronger it regularizes."""
    accuracies: Mapping[float, float]
    """Cross-validated accuracy for each C that was tried, 0..1. Empty if there was no cross-validation."""
    losses: Mapping[float, float]
    """The same for the mean log loss after a temperature. The C with the least is used, and of equal ones the
    smallest."""
    converged: bool = True
    """Whether the regression reached its minimum."""


def require_sklearn() -> None:
    """
    Raises:
        UnavailableError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise _missing_sklearn()


def start_import() -> None:
    """Imports scikit-learn on another thread. It takes a second or more, in which images can be read."""
    Thread(target=_import_regression_early, name="import-sklearn", daemon=True).start()


def fit_probe(
    features: NDArray[np.float32],
    class_indices: Sequence[int] | Integers,
    *,
    num_classes: int,
    groups: Sequence[int],
    seed: int,
    strength: float | None = None,
    has_bias: bool = True,
) -> Probe:
    """Fits a multinomial logistic regression on standardized features, and folds the standardization into it.

    C is chosen by cross-validation. Each group is in one fold, and the classes are spread evenly. The measure is
    the log loss after the temperature that makes it least: a temperature is fitted in the end anyway, and the
    accuracy alone is the same for too many values of C. Standardization takes no labels, and so is not repeated for
    each fold.

    The result does not depend on the number of processors.

    Args:
        features: (N, D), or (N, V, D) with augmented views after the image itself. All views of an image are in its
            fold, and each weighs 1/V. Only the image itself is scored.
        class_indices: (N,), 0..K-1. Each class has an image.
        num_classes: K, at least 2.
        groups: (N,). Images with an equal number are never on both sides of a fold.
        seed: of the folds.
        strength: C. None chooses one of STRENGTHS.
        has_bias: whether the last layer has one. If not, features are not centred, and the bias is zeros.

    Raises:
        UnavailableError: scikit-learn is missing.
        ValueError: the shapes do not fit, or a class has no image.
    """
    import numpy as np

    classes = np.asarray(class_indices, np.int64)
    if features.ndim == 2:
        features = features[:, None]
    if not (features.ndim == 3 and len(features) == len(classes) == len(groups)):
        raise ValueError(f"{features.shape} features, {len(classes)} classes and {len(groups)} groups do not fit")
    if num_classes < 2 or sorted(set(classes.tolist())) != list(range(num_classes)):
        raise ValueError(f"there must be {num_classes} classes, at least 2, and each needs an image")
    _import_regression()  # raises if it is missing; what it imports has threadpoolctl
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Threads of the linear algebra wait for each other busily. One for each fold is faster.
    with threadpool_limits(1, user_api="blas"):
        data, scaler = _prepare(features, classes, has_bias=has_bias)
        accuracies: dict[float, float] = {}
        losses: dict[float, float] = {}
        if strength is None:
            accuracies, losses = _cross_validate(data, groups, seed)
            strength = _best_strength(losses)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")  # such as that classes are many for so few images
            warnings.simplefilter("always", ConvergenceWarning)
            head = data.fit(strength, data.weights, _TOLERANCE)
    for warning in caught:
        logger.warning("scikit-learn: %s", " ".join(str(warning.message).split("\n\n")[0].split()))
    weight, bias = scaler.fold_into(head)
    return Probe(
        weight.astype(np.float32), bias.astype(np.float32), strength, accuracies, losses, converged=not caught
    )


class _Head(NamedTuple):
    """A last layer in float64 or float32."""

    weight: Floats
    """(K, D)."""
    bias: Floats
    """(K,)."""


class _Scaler(NamedTuple):
    """What was done with features before the regression: `x = (features - mean) / scale @ basis`."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    basis: Floats | None
    """(D, R), orthonormal. None for the identity."""

    def fold_into(self, head: _Head) -> _Head:
        """Returns the head that gives the same logits from the features as they are."""
        import numpy as np

        weight = head.weight if self.basis is None else head.weight @ self.basis.T
        weight = weight.astype(np.float64) / self.scale
        return _Head(weight, head.bias - weight @ self.mean)


@dataclass(frozen=True, slots=True)
class _Data:
    """What the regression sees."""

    rows: Floats
    """(N · V, D) standardized. The V views of an image follow each other."""
    classes: Integers
    """(N,)."""
    num_classes: int
    views: int
    weights: Floats
    """(N · V,)."""
    has_bias: bool

    def fit(self, strength: float, weights: Floats, tolerance: float) -> _Head:
        """Fits a regression. A row of weight 0 is as good as absent, and need not be copied away.

        Raises:
            UnavailableError: scikit-learn is missing.
        """
        import numpy as np

        regression = _import_regression()(
            C=strength, max_iter=_MAX_ITERATIONS, tol=tolerance, fit_intercept=self.has_bias
        )
        regression.fit(self.rows, np.repeat(self.classes, self.views), weights)
        weight, bias = regression.coef_, regression.intercept_
        if len(weight) == 1:
            # Of two classes scikit-learn has one row, for the sigmoid. Two rows of half of it are the same softmax.
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        return _Head(weight, bias)


def _prepare(features: NDArray[np.float32], classes: Integers, *, has_bias: bool) -> tuple[_Data, _Scaler]:
    """Standardizes features (N, V, D). The result takes as much memory again, or twice as much if it is little."""
    import numpy as np

    count, views, dimension = features.shape
    dtype = np.dtype(np.float64 if features.size <= _LARGE else np.float32)
    flat = features.reshape(count * views, dimension)
    mean = flat.mean(axis=0, dtype=np.float64)
    rows = np.subtract(flat, mean, dtype=dtype, casting="same_kind")
    blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]
    squares = sum((np.square(block, dtype=np.float64).sum(axis=0) for block in blocks), np.zeros(dimension))
    scale = np.sqrt(squares / len(rows))
    scale[scale <= _CONSTANT * np.abs(mean)] = 1.0
    for block in blocks:
        block /= scale
        if not has_bias:
            block += mean / scale
    if not has_bias:
        mean = np.zeros(dimension)
    basis = None
    if 2 * len(rows) <= dimension:
        # The weights lie in the span of the rows. In coordinates of this span the same regression is smaller.
        basis = np.linalg.qr(rows.T)[0]
        rows = rows @ basis
    weights = np.full(len(rows), 1 / views, dtype)
    return _Data(rows, classes, int(classes.max()) + 1, views, weights, has_bias), _Scaler(mean, scale, basis)


# Cross-validation -------------------------------------------------------------------------------------------


def _cross_validate(data: _Data, groups: Sequence[int], seed: int) -> tuple[dict[float, float], dict[float, float]]:
    """Returns the accuracy and the log loss for each C that was tried.

    From DEFAULT_STRENGTH on, the neighbours of the best C are tried until both are worse. The loss has one minimum,
    but for noise, and weak regularization takes long.

    Both results are empty if the images are too few: two classes need two groups each.
    """
    per_class = Counter(index for index, _ in set(zip(data.classes.tolist(), groups, strict=True)))
    count = min(_FEW_FOLDS if data.rows.size > _LARGE else _FOLDS, sorted(per_class.values())[-2])
    accuracies: dict[float, float] = {}
    losses: dict[float, float] = {}
    if count < 2:
        return accuracies, losses
    folds = assign_folds(data.classes.tolist(), groups, count=count, seed=seed)
    tries = [STRENGTHS.index(DEFAULT_STRENGTH)]
    with ThreadPoolExecutor(devices.count_cores()) as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these regressions only compare
        while tries := [each for each in tries if 0 <= each < len(STRENGTHS) and STRENGTHS[each] not in losses]:
            strengths = [STRENGTHS[each] for each in tries]
            for strength, logits in zip(strengths, _predict(data, folds, strengths, executor), strict=True):
                accuracies[strength] = float((logits.argmax(axis=1) == data.classes).mean())
                losses[strength] = _tempered_loss(logits, data.classes)
            best = STRENGTHS.index(_best_strength(losses))
            tries = [best - 1, best + 1]
    return accuracies, losses


def _best_strength(losses: Mapping[float, float]) -> float:
    return min(losses, key=lambda each: (losses[each], each), default=DEFAULT_STRENGTH)


def _predict(
    data: _Data, folds: Sequence[int], strengths: Sequence[float], executor: ThreadPoolExecutor
) -> list[NDArray[np.float32]]:
    """Returns the logits of all images for each C, (N, K), from regressions on the other folds."""
    import numpy as np

    of_fold = [np.array(folds) == fold for fold in range(max(folds) + 1)]
    tasks = [(strength, held_out) for strength in strengths for held_out in of_fold]
    found = executor.map(lambda task: _predict_fold(data, *task), tasks)
    logits = [np.empty((len(folds), data.num_classes), np.float32) for _ in strengths]
    for number, ((_, held_out), part) in enumerate(zip(tasks, found, strict=True)):
        logits[number // len(of_fold)][held_out] = part
    return logits


def _predict_fold(data: _Data, strength: float, held_out: NDArray[np.bool_]) -> Floats:
    """Returns the logits of the images of a fold, from a regression on the others."""
    import numpy as np

    weights = data.weights * ~np.repeat(held_out, data.views)
    head = data.fit(strength, weights, _TRIAL_TOLERANCE)
    return data.rows[:: data.views][held_out] @ head.weight.T + head.bias


def _tempered_loss(logits: NDArray[np.float32], classes: Integers) -> float:
    """Returns the mean log loss with the temperature that makes it least."""
    import numpy as np

    temperature = fit_temperature(logits, classes)
    total = 0.0
    for start in range(0, len(logits), _BLOCK):
        logs = log_softmax(logits[start : start + _BLOCK], temperature)
        total -= np.take_along_axis(logs, classes[start : start + _BLOCK, None], axis=1).sum()
    return float(total) / len(logits)


def assign_folds(class_indices: Sequence[int], groups: Sequence[int], *, count: int, seed: int) -> list[int]:
    """Returns the number of each image's fold, 0..count-1.

    Groups are never divided, and each class is spread as evenly as they allow. The largest groups are placed first,
    each in the fold that has the fewest images of its classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        members[group].append(image)
    ordered = list(members.values())
    random.Random(seed).shuffle(ordered)
    ordered.sort(key=len, reverse=True)
    sizes = [0] * count
    of_class = [Counter[int]() for _ in range(count)]
    folds = [0] * len(groups)
    for group_images in ordered:
        classes = Counter(class_indices[image] for image in group_images)
        load = [sum(of_class[fold][each] * classes[each] for each in classes) for fold in range(count)]
        chosen = min(range(count), key=lambda fold: (load[fold], sizes[fold]))
        of_class[chosen].update(classes)
        sizes[chosen] += len(group_images)
        for image in group_images:
            folds[image] = chosen
    return folds


# scikit-learn -----------------------------------------------------------------------------------------------


def _import_regression() -> Any:
    """
    Raises:
        UnavailableError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise _missing_sklearn() from error
    return LogisticRegression


def _import_regression_early() -> None:
    with suppress(UnavailableError):  # raised again when it is needed
        _import_regression()


def _missing_sklearn() -> UnavailableError:
    return UnavailableError(
        "training a probe needs scikit-learn, which is not installed",
        hint='pip install "imgclassify[train]", or pip install scikit-learn',
    )
