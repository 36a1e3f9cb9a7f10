"""What a page says of the run: model, weights, preprocessing, calibration and program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TITLES = {
    "model": "model",
    "architecture": "architecture",
    "weights.name": "weights",
    "weights.sha256": "SHA-256 of the weights",
    "label_set": "labels",
    "label_set_sha256": "SHA-256 of the labels",
    "num_classes": "classes of the model",
    "activation": "activation",
    "calibration.temperature": "calibration: temperature",
    "calibration.origin": "calibration: from",
    "calibration.source": "calibration: measured by",
    "calibration.images": "calibration: images",
    "calibration.ece_before": "calibration: ECE before",
    "calibration.ece_after": "calibration: ECE after",
    "decode": "decoding",
    "version": "version of imgclassify",
}
"""The fields that come first, and the names of those that have another one on the page."""
_LONG = 8
"""Longer lists are counted, not written."""


def describe_run(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the names and the values of what is known of a run (RunInfo.to_dict)."""
    found = dict(_flatten(run))
    if "calibration" not in run:
        found["calibration.temperature"] = "none: the probabilities are those of the network"
    first = [name for name in _TITLES if name in found]
    others = [name for name in found if name not in _TITLES]
    return [(_TITLES.get(name, name.replace(".", ": ")), found[name]) for name in [*first, *others]]


def describe_settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the names and the values of settings, in their order."""
    return [(name.replace(".", ": "), value) for name, value in _flatten(settings)]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, each in value.items():
        if isinstance(each, Mapping):
            yield from _flatten(each, f"{prefix}{name}.")
        elif each is not None:
            yield f"{prefix}{name}", _in_words(each)


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        if len(value) > _LONG or any(isinstance(each, list | tuple | Mapping) for each in value):
            return f"{len(value):,} entries"
        return ", ".join(map(_in_words, value))
    return str(value)
