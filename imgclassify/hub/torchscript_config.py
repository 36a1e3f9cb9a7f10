"""Reads what the extra files in a TorchScript archive say of the model: class names and preprocessing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from imgclassify.checkpoints import list_archive
from imgclassify.errors import CheckpointError, describe_error
from imgclassify.hub import metadata, ultralytics
from imgclassify.hub.file_config import FileConfig

_EXTRA_FILE = re.compile(r"[^/]+/extra/(.+)")
"""torch.jit.save puts `_extra_files` here."""
_MAX_BYTES = 2**23
"""Longer files are left out."""


def read_config(path: Path) -> FileConfig:
    """Reads class names and preprocessing from the extra files that are texts.

    A file with a JSON object has several values, such as the config.txt of ultralytics. The name of another file
    says what it is, such as labels.txt.

    Raises:
        CheckpointError: the archive is damaged, or the model is no classifier.
    """
    content: dict[str, Any] = {}
    for name, value in metadata.parse_texts(_read_texts(path)).items():
        content |= {**(value if isinstance(value, dict) else {}), Path(name).stem: value}
    return ultralytics.read_config(content, path.name).combine(
        metadata.read_config(content, path.name, strict=True)
    )


def _read_texts(path: Path) -> dict[str, str]:
    from zipfile import ZipFile

    names = {found[1]: record for record in list_archive(path) if (found := _EXTRA_FILE.fullmatch(record.filename))}
    try:
        with ZipFile(path) as archive:
            return {
                name: archive.read(record).decode("utf-8", "replace")
                for name, record in names.items()
                if record.file_size <= _MAX_BYTES
            }
    except Exception as error:  # zipfile raises many kinds of exception for damaged archives
        raise CheckpointError(
            f"cannot read {str(path)!r} as TorchScript: {describe_error(error)}",
            hint="export or fetch the file again",
        ) from error
