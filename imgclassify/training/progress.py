"""How far a training is, for people and for the file training.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imgclassify.files import atomic_write

__all__ = ["EpochRecord", "Progress", "StoppedError"]


class StoppedError(Exception):
    """A training was asked to stop. What it has done is saved, and it can go on with `resume`."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """What an epoch came to: a line of training.jsonl."""

    epoch: int
    """Counts from 1. 0 is the network as it was before."""
    train_loss: float | None
    """Mean of the loss that is minimised, over the images of the epoch as they were augmented. None for epoch 0."""
    train_accuracy: float | None
    """0..1, over the same images. None for epoch 0."""
    val_loss: float | None
    """Mean negative log-likelihood of the validation part. None if there is none."""
    val_accuracy: float | None
    """0..1."""
    val_score: float | None
    """As `val_loss`, after the temperature that makes it least. The epoch with the least score is the best."""
    learning_rate: float | None
    """Of the last step. None for epoch 0."""
    images_per_second: float | None
    """Trained, with the time for their augmentation, without validation. None for epoch 0."""
    seconds: float
    """Of training until the end of this epoch, in all processes."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    stage: str
    """"images" while they are decoded, then "training"."""
    done: int
    """Images that have been decoded, or steps that have been made."""
    total: int
    """Of these. Training may end earlier."""
    epoch: int = 0
    """The number of the epoch, from 1."""
    epochs: int = 0
    """After so many training ends at the latest."""
    batch: int = 0
    """Batches of the epoch that are done."""
    loss: float | None = None
    """Mean of the epoch until now."""
    accuracy: float | None = None
    """0..1, of the validation part after the last epoch."""
    learning_rate: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    running_loss: float | None = None
    """Mean over the last `loss_every` batches of the recipe, each time when they are complete. None otherwise."""
    record: EpochRecord | None = None
    """The epoch that has just ended. None otherwise."""


def format_history(history: Iterable[EpochRecord]) -> str:
    """Returns the text of training.jsonl: a line for each epoch."""
    return "".join(json.dumps(record.to_dict()) + "\n" for record in history)


def write_history(path: Path, history: Iterable[EpochRecord]) -> None:
    """Writes training.jsonl. The file is whole at any time."""
    with atomic_write(path, locked=True) as draft:
        draft.write_text(format_history(history), "utf-8")
