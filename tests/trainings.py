"""Made-up trainings: their answers are chosen, and everything else is computed from these by the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify.catalog import PreprocessSpec
from imgclassify.errors import ImageNotFoundError
from imgclassify.results import ImageFailure
from imgclassify.sources import Source
from imgclassify.training.dataset import LabelledSource
from imgclassify.training.measurement import FailedImage, ValidationOutputs, measure
from imgclassify.training.progress import EpochRecord
from imgclassify.training.training import TrainingResult

SPEC = PreprocessSpec(
    resize_size=64,
    crop_size=(48, 48),
    interpolation="bilinear",
    antialias=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
Answer = tuple[str, int, int, float]
"""Source, true class, predicted class, its probability."""


def logits_of(answers: Sequence[Answer], num_classes: int) -> np.ndarray:
    """Logits of which the softmax gives the predicted class its probability, and the true one most of the rest."""
    logits = np.empty((len(answers), num_classes))
    for row, (_, truth, predicted, probability) in zip(logits, answers, strict=True):
        second = truth if truth != predicted else (truth + 1) % num_classes
        rest = 1 - probability
        row[:] = np.log(max(rest * 0.1 / max(1, num_classes - 2), 1e-12))
        row[second] = np.log(rest * 0.9 if num_classes > 2 else rest)
        row[predicted] = np.log(probability)
    return logits.astype(np.float32)


def source_of(name: str, content: bytes | None = None) -> Source:
    """A source that is in memory. Without content it cannot be opened."""
    return Source(name, partial(BytesIO, content) if content is not None else partial(_missing, name))


def _missing(name: str) -> Any:
    raise ImageNotFoundError(f"there is no {name!r}")


def epoch(number: int, **values: float | None) -> EpochRecord:
    known: dict[str, float | None] = {
        "train_loss": 2.0 / (number + 1),
        "train_accuracy": 1 - 0.7 / (number + 1),
        "val_loss": 1.8 / (number + 1) + 0.02 * number,
        "val_accuracy": 1 - 0.6 / (number + 1),
        "val_score": 1.7 / (number + 1) + 0.01 * number,
        "learning_rate": 0.001 / (number + 1),
        "images_per_second": 98.7,
    }
    if number == 0:
        known |= dict.fromkeys(("train_loss", "train_accuracy", "learning_rate", "images_per_second"))
    return EpochRecord(epoch=number, seconds=12.5 * number, **{**known, **values})  # type: ignore[arg-type]


def made_training(
    answers: Iterable[Answer],
    classes: Sequence[str],
    *,
    contents: dict[str, bytes] | None = None,
    history: Sequence[EpochRecord] = (),
    failed: Sequence[tuple[str, int, str, str]] = (),
    spec: PreprocessSpec = SPEC,
    name: str = "pets-model",
    method: str = "",
    notes: Sequence[str] = (),
    near_duplicates: int = 0,
    accuracies: dict[str, float] | None = None,
    how: str = "the name of its folder",
) -> TrainingResult:
    """A result of `train`.

    Args:
        contents: the bytes of images, by the names of their sources.
        failed: source, class, type and message of the images of the validation part that failed.
    """
    answers = list(answers)
    failures = [FailedImage(each[0], each[1], ImageFailure(*each[2:])) for each in failed]
    measured = measure(
        ValidationOutputs(
            [each[0] for each in answers],
            [each[1] for each in answers],
            logits_of(answers, len(classes)),
            failed=failures,
        ),
        classes,
        {"model": name, "activation": "softmax"},
        how=how,
    )
    counts = Counter(each[1] for each in answers)
    calibration = measured.calibration
    training = {
        "version": "1.2.3",
        "method": method or ("finetune" if history else "probe"),
        "seed": 7,
        "start": {"model": "resnet18", "weights": "IMAGENET1K_V1", "sha256": "ab" * 32},
        "architecture": "resnet18",
        "preprocess": spec.to_dict(),
        "data": {
            "how": how,
            "sha256": "cd" * 32,
            "images": {
                "train": 4 * len(answers),
                "val": len(answers),
                "left out": len(failures) + near_duplicates,
            },
            "failed": len(failures),
            "classes": [
                {"label": label, "train": 4 * counts[index], "val": counts[index], "left out": 0}
                for index, label in enumerate(classes)
            ],
            "notes": list(notes),
        },
        "split": {"kind": "stratified", "fraction": 0.2, "seed": 7},
        "calibration": {
            "temperature": calibration.calibration.temperature if calibration else None,
            **(calibration.calibration.figures if calibration else {}),
            "reason": measured.no_calibration_reason or None,
        },
        "versions": {"python": "3.11.2", "numpy": "2.0"},
    }
    if history:
        training["recipe"] = {"epochs": "auto", "keep": "best", "crop_scale": (0.35, 1.0), "flip": 0.5}
        best = min(history, key=lambda each: each.val_score or 0)
        last = history[-1].epoch
        training["fit"] = {"epochs": last, "best_epoch": best.epoch, "ended": "early", "dtype": "bfloat16"}
    if accuracies is not None or not history:
        known = {"0.01": 0.9, "0.001": 0.7, "0.1": 0.85} if accuracies is None else accuracies
        training["probe"] = {"strength": 0.01, "accuracies": known, "augmented_views": 0}
    images = (LabelledSource(source_of(each[0], (contents or {}).get(each[0])), each[1]) for each in answers)
    return TrainingResult(
        Path("models") / name, measured, training, tuple(failures), tuple(images), spec, tuple(history)
    )
