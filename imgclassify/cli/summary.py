"""The file of --summary: checked before a run, written at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from imgclassify.errors import UsageError
from imgclassify.files import atomic_write, is_replaceable, temp_path
from imgclassify.output.text_stream import report_io_errors

_OPTION = "--summary"


def check_summary_path(path: Path, output: Path | None) -> None:
    """Checks that the summary can be written, so that an error shows before the run.

    Args:
        path: the file of --summary.
        output: the file of --output, if there is one.

    Raises:
        UsageError: the summary cannot be written there, or the run writes its records there.
    """
    with report_io_errors(path, option=_OPTION):
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        target = path.resolve()
        if is_replaceable(target):
            temp_path(target).touch()
            temp_path(target).unlink()
    if output and str(output) != "-":
        taken = output.resolve()
        if target in (taken, *(taken.with_name(taken.name + more) for more in (".partial", ".run.json"))):
            raise UsageError(f"{str(path)!r} is used for the records", hint="give another file with --summary")


def save_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes the summary atomically. A device or a pipe is written directly.

    Raises:
        UsageError: the summary cannot be written.
    """
    content = json.dumps(summary, indent=1) + "\n"
    with report_io_errors(path, option=_OPTION):
        target = path.resolve()
        if is_replaceable(target):
            with atomic_write(target) as draft:
                draft.write_text(content, encoding="utf-8")
        else:  # a device or a pipe
            target.write_text(content, encoding="utf-8")
