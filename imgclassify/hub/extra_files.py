"""Reads the extra files of an archive that torch.jit.save or torch.export.save wrote, without torch."""

from __future__ import annotations

import re
from pathlib import Path

from imgclassify.checkpoints import list_archive
from imgclassify.errors import CheckpointError, describe_error

_EXTRA_FILE = re.compile(r"(?:[^/]+/extra|extra_files)/(.+)")
"""Where they are. torch.export used the second folder until torch 2.7."""
_MAX_BYTES = 2**23
"""Longer files are left out."""
_OWN, _MAX_OWN_BYTES = "imgclassify.", 2**26
"""The files of imgclassify, and the same limit for them: as in graphs/onnx_metadata.py."""


def read_extra_files(path: Path, kind: str) -> dict[str, str]:
    """Returns the texts by name.

    Args:
        kind: names the format in errors.

    Raises:
        CheckpointError: the archive is damaged.
    """
    from zipfile import ZipFile

    try:
        records = list_archive(path)
        names = {found[1]: record for record in records if (found := _EXTRA_FILE.fullmatch(record.filename))}
        with ZipFile(path) as archive:
            return {
                name: archive.read(record).decode("utf-8", "replace")
                for name, record in names.items()
                if record.file_size <= (_MAX_OWN_BYTES if name.startswith(_OWN) else _MAX_BYTES)
            }
    except Exception as error:  # zipfile raises many kinds of exception for damaged archives
        raise CheckpointError(
            f"cannot read {str(path)!r} as {kind}: {describe_error(error)}", hint="export or fetch the file again"
        ) from error
