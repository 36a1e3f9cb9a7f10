"""What `imgclassify export` writes into a file about its model: the keys, and reading them.

ONNX has them as metadata, torch.export and TorchScript as extra files. The values of SCHEMA_KEY, ACTIVATION and
LICENSE are words, and all others are JSON. docs/export.md describes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from imgclassify import labels as label_sets
from imgclassify.catalog import (
    ACTIVATIONS,
    PreprocessSpec,
    PublishedTemperature,
    parse_preprocess,
    parse_temperature,
)
from imgclassify.errors import CheckpointError, ManifestError, name_type, short_repr
from imgclassify.labels import Label, LabelSet

SCHEMA_KEY = "imgclassify.schema"
SCHEMA = "imgclassify.export/1"
"""Identifies the keys and their values. A breaking change increases the number."""
INPUT = "imgclassify.input"
"""The name, type and shape of the input."""
OUTPUTS = "imgclassify.outputs"
"""The name and number of values per image of each output, in order."""
LABELS = "imgclassify.labels"
LABEL_SET = "imgclassify.label_set"
"""The name of the label set, and its digest."""
PREPROCESS = "imgclassify.preprocess"
"""PreprocessSpec.to_dict."""
ACTIVATION = "imgclassify.activation"
"""What turns the first output into probabilities: one of ACTIVATIONS."""
TEMPERATURE = "imgclassify.temperature"
"""A published temperature."""
CALIBRATION = "imgclassify.calibration"
"""The content of a calibration file (confidence/calibration.py)."""
PROVENANCE = "imgclassify.provenance"
LICENSE = "imgclassify.license"
TEST_VECTOR = "imgclassify.test_vector"
DATA = "imgclassify.data"
"""The name and digest of the file with the parameters, if they are not in this one."""

_HINT = "export the model again"
_MAX_OUTPUT = 2**24


class ExportedConfig(NamedTuple):
    """What a file that `imgclassify export` wrote says of its model."""

    labels: LabelSet
    preprocess: PreprocessSpec
    activation: str
    """One of ACTIVATIONS."""
    outputs: Mapping[str, int]
    """Output → number of values per image, in order."""
    temperature: PublishedTemperature | None
    calibration: str | None
    weights_sha256: str | None
    """The digest of the weights that it was made from. None if it is not known."""
    data: Mapping[str, str]
    """The name of the file with the parameters → its SHA-256. Empty if they are in this one."""

    def bind_calibration(self, sha256: str | None) -> str | None:
        """Returns the calibration as one of this file.

        It was made for the weights that the file was exported from, which are other bytes. Being in the file, it
        belongs to it as long as preprocessing and activation are those of the file.

        Args:
            sha256: the digest of the file. None if it does not identify the model.
        """
        if self.calibration is None or sha256 is None:
            return None
        content = json.loads(self.calibration)
        content["run"] = {**content["run"], "weights": {"name": None, "sha256": sha256}, "options": None}
        return json.dumps(content)


def read_exported(texts: Mapping[str, str], file_name: str) -> ExportedConfig | None:
    """Returns what a file says of its model. None if `imgclassify export` has not written it.

    Args:
        texts: the metadata by key.
        file_name: names the file in errors.

    Raises:
        CheckpointError: a value is missing or malformed, or of another release of imgclassify.
    """
    schema = texts.get(SCHEMA_KEY)
    if schema is None:
        return None
    if schema != SCHEMA:
        raise CheckpointError(
            f"{file_name} has metadata of the form {short_repr(schema)}, and this release reads {SCHEMA}",
            hint="update imgclassify, or export the model again with this release",
        )
    try:
        return ExportedConfig(
            labels=_read_labels(texts, file_name),
            preprocess=parse_preprocess(_read_json(texts, PREPROCESS, dict), f"{PREPROCESS} in {file_name}"),
            activation=_read_activation(texts),
            outputs=_read_outputs(texts),
            temperature=parse_temperature(_read_json(texts, TEMPERATURE, dict), f"{TEMPERATURE} in {file_name}")
            if TEMPERATURE in texts
            else None,
            calibration=_read_calibration(texts),
            weights_sha256=_read_digest(texts),
            data=_read_data(texts),
        )
    except ManifestError as error:
        raise CheckpointError(str(error), hint=_HINT) from error
    except ValueError as error:
        raise CheckpointError(f"the metadata of {file_name} are damaged: {error}", hint=_HINT) from error


def _read_json(texts: Mapping[str, str], key: str, kind: type) -> Any:
    """
    Raises:
        ValueError: there is no such value, or it is of another type.
    """
    try:
        value = json.loads(texts[key])
    except (KeyError, ValueError, RecursionError):
        raise ValueError(f"{key} is missing or no JSON") from None
    if type(value) is not kind:
        raise ValueError(f"{key} is {name_type(value)}")
    return value


def _read_labels(texts: Mapping[str, str], file_name: str) -> LabelSet:
    entries = _read_json(texts, LABELS, list)
    labels = LabelSet(f"{LABELS} in {file_name}", tuple(_to_label(*each) for each in enumerate(entries)))
    if not labels.labels:
        raise ValueError(f"{LABELS} is empty")
    name = _read_json(texts, LABEL_SET, dict).get("name")
    # The name of a set that comes with imgclassify, if these are its labels.
    if name in label_sets.list_label_sets() and label_sets.load_labels(name).labels == labels.labels:
        return LabelSet(name, labels.labels)
    return labels


def _to_label(index: int, entry: Any) -> Label:
    if not isinstance(entry, dict):
        raise ValueError(f"entry {index} of {LABELS} is {name_type(entry)}")
    label, wnid, gloss = entry.get("label"), entry.get("wnid"), entry.get("gloss", "")
    synonyms = entry.get("synonyms", [])
    texts = [label, wnid or "", gloss, *(synonyms if isinstance(synonyms, list) else [None])]
    if not all(isinstance(text, str) for text in texts) or not label:
        raise ValueError(f"entry {index} of {LABELS} is {short_repr(entry)}")
    return Label(index, wnid, label, tuple(synonyms), gloss)


def _read_activation(texts: Mapping[str, str]) -> str:
    activation = texts.get(ACTIVATION)
    if activation not in ACTIVATIONS:
        raise ValueError(f"{ACTIVATION} is {short_repr(activation)}")
    return activation


def _read_outputs(texts: Mapping[str, str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in _read_json(texts, OUTPUTS, list):
        name, size = (entry.get("name"), entry.get("size")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or type(size) is not int or not 0 < size <= _MAX_OUTPUT:
            raise ValueError(f"{OUTPUTS} has the entry {short_repr(entry)}")
        found[name] = size
    if not found:
        raise ValueError(f"{OUTPUTS} is empty")
    return found


def _read_calibration(texts: Mapping[str, str]) -> str | None:
    if CALIBRATION not in texts:
        return None
    if not isinstance(_read_json(texts, CALIBRATION, dict).get("run"), dict):
        raise ValueError(f"{CALIBRATION} does not say which run it is of")
    return texts[CALIBRATION]


def _read_digest(texts: Mapping[str, str]) -> str | None:
    weights = _read_json(texts, PROVENANCE, dict).get("weights")
    digest = weights.get("sha256") if isinstance(weights, dict) else None
    return digest if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) else None


def _read_data(texts: Mapping[str, str]) -> dict[str, str]:
    if DATA not in texts:
        return {}
    found = _read_json(texts, DATA, dict)
    if not all(isinstance(found.get(key), str) for key in ("file", "sha256")):
        raise ValueError(f"{DATA} does not name a file and its digest")
    return {found["file"]: found["sha256"]}
