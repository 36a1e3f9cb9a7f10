"""A calibration of the embedded model, learned from noise whose truths are drawn from the model's own answers."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from conftest import noise
from numpy.typing import NDArray
from PIL import Image

from imgclassify import Classifier
from imgclassify.confidence.calibration import Calibration
from imgclassify.engines import FEATURES, LOGITS
from imgclassify.evaluation.calibrating import LabelledLogits, learn_calibration
from imgclassify.labels.taxonomy import wordnet_taxonomy

COUNT = 40


class Learned(NamedTuple):
    calibration: Calibration
    data: LabelledLogits
    head_weight: NDArray[np.float32]


def images() -> list[Image.Image]:
    return [noise(64 + 8 * (seed % 5), 64, seed) for seed in range(COUNT)]


def softmax64(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@cache
def learned() -> Learned:
    classifier = Classifier(with_features=True)
    outputs = [classifier.runner.run_one(image).arrays for image in images()]
    logits = np.stack([each[LOGITS] for each in outputs])
    features = np.stack([each[FEATURES] for each in outputs])
    generator = np.random.default_rng(5)
    truth = np.array([generator.choice(1000, p=row) for row in softmax64(logits, 0.6)], np.int64)
    data = LabelledLogits(logits, truth, features)
    weight = classifier.runner.find_head_weight()
    assert weight is not None
    report = learn_calibration(
        data,
        classifier.run.to_dict(),
        {"truth": {"how": "drawn", "file": None, "map": None}, "failed": 0},
        origin="drawn.json",
        taxonomy=wordnet_taxonomy(classifier.labels),
        head_weight=weight,
    )
    return Learned(report.calibration, data, weight)
