"""The table of output formats. The command line, its help and the docs are made from it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.errors import UsageError
from imgclassify.plugins import load_plugins

if TYPE_CHECKING:
    from imgclassify.output.records import RecordType

__all__ = ["FORMATS", "OutputFormat", "find_format", "format_of_path", "list_formats"]

PLUGIN_GROUP = "imgclassify.output_formats"
"""The entry points by which another package adds an OutputFormat."""


class OutputFormat(NamedTuple):
    """A format of records: one row of FORMATS.

    It can be streamed if it has a `writer`. A stopped run can be resumed if it has a `writer` and a `reader`, or a
    `file_format`. Each is written `module:name`, and imported when it is used.
    """

    name: str
    endings: tuple[str, ...]
    """Of file names, without the dot, in lower case."""
    audience: str
    """Who or what it is for, in docs/output.md."""
    shape: str
    """What it looks like, in docs/output.md."""
    writer: str | None = None
    """A `Writer` (imgclassify/output/__init__.py)."""
    reader: str | None = None
    """A function of a text stream and a RecordType, which yields the records. ValueError where it is damaged."""
    file_format: str | None = None
    """A `FileFormat` (imgclassify/output/file_formats.py), for a format that is written as a whole file."""
    package: str | None = None
    """A package that it needs and that comes with the extra of its own name."""
    record_types: tuple[str, ...] = ()
    """The kinds of record that it can hold; empty for every kind without vectors."""
    holds_vectors: bool = False

    @property
    def streamable(self) -> bool:
        """Whether it can be written to stdout."""
        return self.writer is not None

    @property
    def resumable(self) -> bool:
        """Whether a stopped run can go on with its file."""
        return self.reader is not None or self.file_format is not None

    def supports(self, record_type: RecordType[Any]) -> bool:
        if self.record_types and record_type.name not in self.record_types:
            return False
        return self.holds_vectors or not record_type.has_vectors

    def load(self, part: str) -> Any:
        """The class or function that `writer`, `reader` or `file_format` names.

        Raises:
            UsageError: a package is missing.
        """
        if self.package and not find_spec(self.package):
            raise UsageError(f"{self.name} needs an extra package", hint=f"pip install 'imgclassify[{self.name}]'")
        module, _, name = part.partition(":")
        return getattr(import_module(module), name)


FORMATS = (
    OutputFormat(
        name="table",
        endings=("txt", "table"),
        audience="people",
        shape="one image: its ranks, labels, percentages and bars. Many: a row each",
        writer="imgclassify.output.table:TableWriter",
        record_types=("predictions",),
    ),
    OutputFormat(
        name="json",
        endings=("json",),
        audience="programs that need the run's provenance too",
        shape="one document. It is streamed, and valid even when interrupted",
        writer="imgclassify.output.json_document:JsonDocumentWriter",
        holds_vectors=True,
    ),
    OutputFormat(
        name="jsonl",
        endings=("jsonl", "ndjson"),
        audience="pipes",
        shape="one record per line, written at once",
        writer="imgclassify.output.json_lines:JsonLinesWriter",
        reader="imgclassify.output.json_lines:read_json_lines",
        holds_vectors=True,
    ),
    OutputFormat(
        name="csv",
        endings=("csv",),
        audience="spreadsheets and data frames",
        shape="a header, then one row per image",
        writer="imgclassify.output.delimited:CsvWriter",
        reader="imgclassify.output.delimited:read_csv",
    ),
    OutputFormat(
        name="tsv",
        endings=("tsv",),
        audience="the same, with tabs",
        shape="a header, then one row per image",
        writer="imgclassify.output.delimited:TsvWriter",
        reader="imgclassify.output.delimited:read_tsv",
    ),
    OutputFormat(
        name="parquet",
        endings=("parquet",),
        audience="pandas, polars, DuckDB",
        shape="compressed columns, one row per image. Files only",
        file_format="imgclassify.output.parquet:ParquetFileFormat",
        package="pyarrow",
        holds_vectors=True,
    ),
    OutputFormat(
        name="sqlite",
        endings=("sqlite", "db", "sqlite3"),
        audience="questions in SQL",
        shape="a table of images and one of predictions. Files only",
        file_format="imgclassify.output.sqlite:SqliteFileFormat",
    ),
)
"""Every output format that imgclassify itself has."""


def list_formats(record_type: RecordType[Any]) -> list[OutputFormat]:
    """Every format for such records, those of other packages too."""
    return [each for each in (*FORMATS, *load_plugins(PLUGIN_GROUP, OutputFormat)) if each.supports(record_type)]


def find_format(name: str, record_type: RecordType[Any]) -> OutputFormat:
    """The format of that name.

    Raises:
        UsageError: there is none, or it cannot hold such records.
    """
    found = _first_match(lambda each: each.name == name, record_type)
    if found is None:
        raise UsageError(f"unknown format {name!r}", hint=f"use one of {_format_names(record_type)}")
    return found


def format_of_path(path: Path, record_type: RecordType[Any]) -> OutputFormat:
    """The format that a file name's ending stands for.

    Raises:
        UsageError: it stands for none.
    """
    ending = path.suffix.lower().removeprefix(".")
    found = _first_match(lambda each: ending in each.endings, record_type)
    if found is None:
        raise UsageError(
            f"the ending of {str(path)!r} names no format",
            hint=f"add --format with one of {_format_names(record_type)}, or end the name in one of them",
        )
    return found


def _first_match(matches: Callable[[OutputFormat], bool], record_type: RecordType[Any]) -> OutputFormat | None:
    own = (each for each in FORMATS if matches(each) and each.supports(record_type))
    others = (each for each in list_formats(record_type) if matches(each))
    return next(own, None) or next(others, None)  # other packages are searched only if need be


def _format_names(record_type: RecordType[Any]) -> str:
    return ", ".join(each.name for each in list_formats(record_type))
