"""Describes a model that is not in the catalog: a file, a folder, or a model of timm. Fetches nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from imgclassify import labels as label_sets
from imgclassify.engines import FEATURES
from imgclassify.errors import LabelsError, OutputError, UsageError
from imgclassify.hub.network import LoadOptions
from imgclassify.hub.reference import ModelReference
from imgclassify.runner import load_runner

if TYPE_CHECKING:
    from imgclassify.runner import ModelRunner

__all__ = ["describe_file", "describe_timm"]


def describe_file(reference: str, *, labels: str | None = None, **loading: Any) -> dict[str, Any]:
    """Loads a file or folder as `predict` does, and describes the model in plain values for JSON.

    Args:
        labels, loading: as for Classifier.

    Returns:
        `name`, `architecture`, `num_classes`, `label_set` (None if there are no labels for this number of classes),
        `preprocess`, `origins` (where the model's files say these), `path`, `bytes`, `sha256`, `engines`
        (Backends.engines), and `features`: whether `embed` can be used.

    Raises:
        UsageError, UnavailableError: as for Classifier.
    """
    runner = _load_runner(reference, labels, **loading)
    network = runner.network
    assert network.path is not None
    return {
        "name": network.model,
        "architecture": network.architecture,
        "num_classes": runner.num_classes,
        "label_set": network.labels.name if network.labels else None,
        "preprocess": network.preprocess.to_dict(),
        "origins": dict(network.origins),
        "path": str(network.path.absolute()),
        "bytes": network.path.stat().st_size,
        "sha256": network.sha256,
        "engines": network.backends.engines,
        "features": _has_features(runner),
    }


def describe_timm(reference: ModelReference) -> dict[str, Any]:
    """Describes a model of timm's registry in plain values for JSON, as far as it is known without a network.

    Returns:
        What `describe_file` returns, with `url`, `license` and `cached`. Without cached weights, `path`, `bytes`
        and `sha256` are None.

    Raises:
        UnknownModelError: timm has no such pretrained model.
        HashMismatchError: the cached weights are not the expected file.
    """
    from imgclassify.hub.export_cache import find_prepared
    from imgclassify.hub.timm_registry import TimmLoader

    described = TimmLoader().describe_model(reference)
    prepared = find_prepared(reference, LoadOptions()) if described["cached"] else None
    return described | {"engines": ["onnxruntime", "torch"] if prepared else ["torch"], "features": True}


def _load_runner(reference: str, labels: str | None, **loading: Any) -> ModelRunner:
    """Loads a model with its labels, or without any if it has none that fit."""
    options = {**loading, "device": "cpu", "num_images": 1}
    if labels is None:
        with suppress(LabelsError, UsageError):
            runner = load_runner(reference, **options)
            assert runner.network.labels is not None
            runner.network.labels.require_num_classes(runner.num_classes)
            return runner
        return load_runner(reference, with_labels=False, **options)
    runner = load_runner(reference, labels=labels, **options)
    label_sets.load_labels(labels, num_classes=runner.num_classes)
    return runner


def _has_features(runner: ModelRunner) -> bool:
    import numpy as np

    # Some networks show only while they run whether their features can be found.
    try:
        runner.with_outputs((FEATURES,)).run_one(np.zeros((32, 32, 3), np.uint8))
    except OutputError:
        return False
    return True
