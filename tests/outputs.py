"""Outputs of predictions, each by the name of its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TextIO

from imgclassify import output
from imgclassify.output import formats
from imgclassify.output.file_formats import FileFormat, open_file_format
from imgclassify.output.formats import FORMATS, find_format
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import PREDICTIONS
from imgclassify.results import ImageResult, RunInfo

RESUMABLE = tuple(each.name for each in FORMATS if each.resumable and each.supports(PREDICTIONS))


def open_output(path: Path | None, name: str, **options: Any) -> output.Output:
    return output.open_output(PREDICTIONS, path, find_format(name, PREDICTIONS), **options)


def file_format(name: str) -> FileFormat[ImageResult]:
    return open_file_format(find_format(name, PREDICTIONS), PREDICTIONS)


def open_writer(name: str, stream: TextIO, run: RunInfo, *, top_k: int) -> formats.Writer:
    chosen = find_format(name, PREDICTIONS)
    assert chosen.writer
    writer: formats.Writer = chosen.load(chosen.writer)(
        stream, Provenance.from_run(run, {"top_k": top_k}), PREDICTIONS
    )
    return writer
