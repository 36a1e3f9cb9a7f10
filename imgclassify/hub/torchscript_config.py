"""Reads what the extra files in a TorchScript archive say of the model: class names and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgclassify.hub import metadata, ultralytics
from imgclassify.hub.file_config import FileConfig


def read_config(texts: Mapping[str, str], file_name: str) -> FileConfig:
    """Reads class names and preprocessing from the extra files that are texts.

    A file with a JSON object has several values, such as the config.txt of ultralytics. The name of another file
    says what it is, such as labels.txt.

    Args:
        texts: the extra files by name.
        file_name: names the archive in errors.

    Raises:
        CheckpointError: the model is no classifier.
    """
    content: dict[str, Any] = {}
    for name, value in metadata.parse_texts(texts).items():
        content |= {**(value if isinstance(value, dict) else {}), Path(name).stem: value}
    found = ultralytics.read_config(content, file_name)
    return found.combine(metadata.read_config(content, file_name, strict=True))
