"""What an exported file says of its model, by the keys of hub/exported_config.py."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from imgclassify._version import __version__
from imgclassify.errors import UnavailableError
from imgclassify.exporting.test_vector import describe_crop
from imgclassify.graphs.export import INPUT
from imgclassify.hub import exported_config as keys
from imgclassify.hub.reference import ModelReference

if TYPE_CHECKING:
    from imgclassify.exporting.source import ExportSource
    from imgclassify.labels import Label

_BUILDERS = ("torchvision", "timm", "transformers")
"""Packages that may have built the network."""


def describe_model(source: ExportSource, *, file_format: str, dtype: str) -> dict[str, str]:
    """Returns the metadata of a file: texts by key. They are the same for the same model and packages.

    Args:
        file_format: one of exporting.FORMATS.
        dtype: what the file computes in.
    """
    network, labels = source.network, source.labels
    score = source.expected[source.score_name][0]
    values: dict[str, Any] = {
        keys.INPUT: {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["n", *network.preprocess.crop_size, 3],
            "channels": network.preprocess.channel_order,
        },
        keys.OUTPUTS: [
            {"name": name, "dtype": "float32", "size": size} for name, size in source.output_sizes.items()
        ],
        keys.PREPROCESS: network.preprocess.to_dict(),
        keys.LABEL_SET: {"name": labels.name, "sha256": labels.digest()},
        keys.PROVENANCE: {
            "reference": source.reference,
            "model": network.model,
            "architecture": network.architecture,
            "weights": {"name": network.weights, "sha256": network.sha256},
            "options": source.runner.run_info.options,
            "dtype": dtype,
            "versions": _find_versions(source, file_format),
        },
        keys.TEST_VECTOR: describe_crop(source.crops[0], source.score_name, score),
        **_describe_calibration(source),
        # Last, because they are long.
        keys.LABELS: [_describe_label(label) for label in labels.labels],
    }
    texts = {keys.SCHEMA_KEY: keys.SCHEMA, keys.ACTIVATION: source.activation.name}
    if license_name := _find_license(source.reference):
        texts[keys.LICENSE] = license_name
    return texts | {key: json.dumps(value) for key, value in values.items()}


def _describe_label(label: Label) -> dict[str, Any]:
    optional = {"wnid": label.wnid, "synonyms": list(label.synonyms), "gloss": label.gloss}
    return {"label": label.label, **{name: value for name, value in optional.items() if value}}


def _describe_calibration(source: ExportSource) -> dict[str, Any]:
    """Returns the entry of the calibration that is known: one from labelled images, or a published temperature."""
    found = source.calibration
    if found is None:
        return {}
    if found.belongs_to is not None:
        return {keys.CALIBRATION: found.to_dict()}
    assert source.network.calibration is not None  # where it comes from
    return {keys.TEMPERATURE: source.network.calibration._asdict()}


def _find_versions(source: ExportSource, file_format: str) -> dict[str, str]:
    """Returns the versions of the packages that take part in an export."""
    packages: list[str] = []
    if file_format != "onnx" or source.network.backends.find_graph is None:
        packages = ["torch", *(name for name in _BUILDERS if name in sys.modules)]
        packages += ["onnx", "onnxscript"] if file_format == "onnx" else []
    found = {"imgclassify": __version__}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _find_license(reference: str) -> str:
    """Returns the licence of a model's weights, as its publisher states it. Empty if it is not known."""
    parsed = ModelReference.parse(reference)
    if parsed.kind.in_catalog:
        manifest = parsed.loader().find_architecture(parsed)
        return manifest.metadata.license if manifest.metadata else ""
    if parsed.kind.name == "timm":
        from imgclassify.hub.timm_registry import TimmLoader

        try:
            return TimmLoader().describe_model(parsed)["license"] or ""
        except UnavailableError:
            return ""
    return ""
