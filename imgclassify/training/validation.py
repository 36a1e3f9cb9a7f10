"""Measures a network on the validation part, in float32 and with the crops of predict."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from imgclassify.confidence.temperature import fit_temperature, log_softmax
from imgclassify.engines.cuda_streams import exact_float32

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.training.training_data import ValidationPart

    ComputeLogits = Callable[[torch.Tensor], torch.Tensor]
    """(N, H, W, 3) uint8 → (N, classes) float32, on the device."""

_BATCH_SIZE = 64
_CPU_BATCH_SIZE = 16


class Measured(NamedTuple):
    """How good a network is."""

    loss: float
    """Mean negative log-likelihood."""
    accuracy: float
    """0..1."""
    score: float
    """As `loss`, after the temperature that makes it least. So a network is not preferred for being less sure."""


def compute_logits(part: ValidationPart, compute: ComputeLogits, device: torch.device) -> NDArray[np.float32]:
    """Returns the logits of the images of a part that is not empty, (N, classes)."""
    size = _CPU_BATCH_SIZE if device.type == "cpu" else _BATCH_SIZE
    with torch.inference_mode(), exact_float32():
        batches = [
            compute(torch.from_numpy(part.read(start, start + size))).float().cpu().numpy()
            for start in range(0, len(part), size)
        ]
    return np.concatenate(batches)


def measure(logits: NDArray[np.float32], class_indices: NDArray[np.int64]) -> Measured | None:
    """Returns how good logits are, (N, classes), or None if one of them is not finite."""
    if not np.isfinite(logits).all():
        return None
    rows = np.arange(len(logits))
    temperature = fit_temperature(logits, class_indices)
    loss, score = (-float(log_softmax(logits, each)[rows, class_indices].mean()) for each in (1.0, temperature))
    # The sum of a mean of logarithms may be -0.0.
    return Measured(loss, float((logits.argmax(axis=1) == class_indices).mean()), math.fabs(score))
