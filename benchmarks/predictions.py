"""Reads the predictions of several programs for the same photographs, and compares them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path, PurePath

Probabilities = dict[int, float]
"""Class index → probability, most probable first."""


def read(path: Path) -> dict[str, Probabilities]:
    """Reads predictions by the photograph's file name.

    Args:
        path: the JSON Lines of imgclassify, or the CSV of a reference program (name, class index, probability).

    Returns:
        File name → predictions, which are empty if imgclassify failed for the photograph.
    """
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            records = map(json.loads, file)
            return {PurePath(record["source"]).name: _ours(record) for record in records}
        return {name: {int(index): float(probability)} for name, index, probability in csv.reader(file)}


def _ours(record: Mapping[str, object]) -> Probabilities:
    predictions = record["predictions"]
    assert isinstance(predictions, list)
    return {prediction["class_index"]: prediction["probability"] for prediction in predictions}


def agreement(predictions: Mapping[str, Probabilities], reference: Mapping[str, Probabilities]) -> float:
    """Returns the share (0..1) of the reference's photographs whose most probable class is the same."""
    same = sum(_first(predictions.get(name, {})) == _first(prediction) for name, prediction in reference.items())
    return same / len(reference)


def largest_change(predictions: Mapping[str, Probabilities], reference: Mapping[str, Probabilities]) -> float:
    """Returns the largest difference between the probabilities that both give for the same class."""
    return max(
        (
            abs(predictions[name][index] - probability)
            for name, prediction in reference.items()
            for index, probability in prediction.items()
            if index in predictions.get(name, {})
        ),
        default=0.0,
    )


def _first(prediction: Probabilities) -> int | None:
    return next(iter(prediction), None)
