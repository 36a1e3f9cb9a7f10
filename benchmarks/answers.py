"""The answers that programs gave for the same photographs, and how far they agree."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path, PurePath

Answer = dict[int, float]
"""Class index → probability, the most probable first."""


def read(path: Path) -> dict[str, Answer]:
    """Photograph's file name → answer, from our JSON Lines or a reference's CSV (name, class index, probability).

    A photograph that we could not answer has an empty one.
    """
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            records = map(json.loads, file)
            return {PurePath(record["source"]).name: _ours(record) for record in records}
        return {name: {int(index): float(probability)} for name, index, probability in csv.reader(file)}


def _ours(record: Mapping[str, object]) -> Answer:
    predictions = record["predictions"]
    assert isinstance(predictions, list)
    return {prediction["class_index"]: prediction["probability"] for prediction in predictions}


def agreement(answers: Mapping[str, Answer], reference: Mapping[str, Answer]) -> float:
    """The share of the reference's photographs whose most probable class is the same, 0..1."""
    same = sum(_first(answers.get(name, {})) == _first(answer) for name, answer in reference.items())
    return same / len(reference)


def largest_change(answers: Mapping[str, Answer], reference: Mapping[str, Answer]) -> float:
    """The largest difference of a probability that both give."""
    return max(
        (
            abs(answers[name][index] - probability)
            for name, answer in reference.items()
            for index, probability in answer.items()
            if index in answers.get(name, {})
        ),
        default=0.0,
    )


def _first(answer: Answer) -> int | None:
    return next(iter(answer), None)
