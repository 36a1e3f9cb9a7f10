"""Writes a manifest as the TOML text that parsing.py reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from imgclassify.catalog.manifest import ModelManifest
from imgclassify.catalog.parsing import parse_manifests


def format_manifest(manifest: ModelManifest) -> str:
    """Returns the text of a manifest file with one model. `origin` is the path that the file will have.

    Raises:
        ManifestError: a value is one that a manifest cannot have. The message names its key.
    """
    text = format_model(manifest)
    assert parse_manifests(text, manifest.origin) == [manifest]
    return text


def format_model(manifest: ModelManifest) -> str:
    """Returns the text of one model. Nothing is checked."""
    lines: dict[str, Any] = {
        "name": manifest.name,
        "weights": manifest.weights,
        "default": manifest.default,
        "architecture": manifest.architecture,
        "provider": manifest.provider,
        **({"file": manifest.file} if manifest.file else {"url": manifest.url}),
        "sha256": manifest.sha256,
        "num_classes": manifest.num_classes,
        "label_set": manifest.label_set,
        "activation": manifest.activation,
        "output_name": manifest.output_name,
        "options": dict(manifest.options),
        "rename": manifest.rename,
        "checkpoint_key": manifest.checkpoint_key,
        "layers": manifest.layers._asdict() if manifest.layers else {},
        "preprocess": manifest.preprocess.to_dict(),
        "gflops": manifest.gflops,
        "calibration": manifest.calibration._asdict() if manifest.calibration else {},
        "metadata": manifest.to_dict()["metadata"],
    }
    required = ("weights", "url", "sha256", "label_set")  # these may be empty, but not left out
    return "[[models]]\n" + format_lines(
        {key: value for key, value in lines.items() if key in required or value not in ({}, (), None, "")}
    )


def format_lines(values: Mapping[str, Any]) -> str:
    """Returns the lines of a TOML table, one for each key."""
    return "".join(f"{_format_key(key)} = {format_value(value)}\n" for key, value in values.items())


def format_value(value: Any) -> str:
    """Returns a TOML value on one line.

    Args:
        value: a string, boolean or number, or a sequence or mapping of such values.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value and "'" not in value and value.isprintable() else _quote(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        items = (f"{_format_key(key)} = {format_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(items) + " }"
    return repr(value)


def _quote(text: str) -> str:
    # JSON's escapes are TOML's too. Only DEL is allowed in JSON and not in TOML.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _format_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quote(key)
