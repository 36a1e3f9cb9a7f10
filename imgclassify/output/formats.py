"""Lists the output formats, and finds one by its name or by the extension of a file name.

The command line, its help and the docs are generated from this list.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from imgclassify.errors import UsageError
from imgclassify.plugins import load_plugins

if TYPE_CHECKING:
    from imgclassify.output.records import RecordType

__all__ = ["FORMATS", "OutputFormat", "find_format", "format_names", "format_of_path", "list_formats"]

PLUGIN_GROUP = "imgclassify.output_formats"
"""The group of entry points with which other packages add an OutputFormat."""


class Writer(Protocol):
    """Writes the records of a streamable format to a text stream.

    It is created with (stream, provenance, record type) and used in a with statement. When the with block ends,
    even with an exception, the stream holds only whole records.
    """

    def __enter__(self) -> Self: ...

    def write(self, record: Any) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OutputFormat(NamedTuple):
    """An output format: one row of FORMATS.

    A format with a `writer` can be streamed. A stopped run can be resumed if the format has a `writer` and a
    `reader`, or a `file_format`. Each of the three is given as `module:name`, and is imported when it is used.
    """

    name: str
    extensions: tuple[str, ...]
    """Endings of file names that select this format: lower case, without the dot."""
    audience: str
    """Who or what the format is for. Printed in docs/output.md."""
    shape: str
    """What the output looks like. Printed in docs/output.md."""
    writer: str | None = None
    """A class that implements `Writer`."""
    reader: str | None = None
    """A function that takes a text stream and a RecordType, and yields the records. It raises ValueError if the
    text is damaged."""
    bom_writer: str | None = None
    """Like `writer`, of a text format that can also begin with a byte order mark."""
    file_format: str | None = None
    """A `FileFormat` (imgclassify/output/file_formats.py), for a format that is written as a whole file."""
    package: str | None = None
    """A package that the format needs. It is installed with imgclassify's extra of the format's name."""
    record_types: tuple[str, ...] = ()
    """The names of the record types that it can hold; empty for all."""
    holds_vectors: bool = False
    """Whether it can hold record types that have a Vector."""
    lines_of_journal: bool = False
    """Whether a file has the same lines as the journal (imgclassify/output/journal.py), for records without a
    Vector."""

    @property
    def streamable(self) -> bool:
        """Whether it can be written to stdout."""
        return self.writer is not None

    @property
    def resumable(self) -> bool:
        """Whether a stopped run can be resumed in its file."""
        return self.reader is not None or self.file_format is not None

    def supports(self, record_type: RecordType[Any]) -> bool:
        """Whether it can hold such records."""
        if self.record_types and record_type.name not in self.record_types:
            return False
        return self.holds_vectors or not record_type.has_vectors

    def with_byte_order_mark(self) -> OutputFormat:
        """Returns the same format, but with a byte order mark at the beginning.

        Raises:
            UsageError: the format has none.
        """
        if self.bom_writer is None:
            raise UsageError(
                f"{self.name} has no byte order mark", hint="leave --csv-bom out, or write csv or tsv with it"
            )
        return self._replace(writer=self.bom_writer)

    def load(self, part: str) -> Any:
        """Imports and returns the class or function that `writer`, `reader` or `file_format` names.

        Args:
            part: one of those three, as `module:name`.

        Raises:
            UsageError: a package is missing.
        """
        if self.package and not find_spec(self.package):
            raise UsageError(f"{self.name} needs an extra package", hint=f"pip install {self.package}")
        module, _, name = part.partition(":")
        return getattr(import_module(module), name)


FORMATS = (
    OutputFormat(
        name="table",
        extensions=("txt", "table"),
        audience="people",
        shape="one image: one row per prediction, with label, percentage and bar; several: one row per image",
        writer="imgclassify.output.table:TableWriter",
        record_types=("predictions",),
    ),
    OutputFormat(
        name="json",
        extensions=("json",),
        audience="programs that need the run's provenance too",
        shape="one document, streamed; it is valid JSON even if the run is interrupted",
        writer="imgclassify.output.json_document:JsonDocumentWriter",
        holds_vectors=True,
    ),
    OutputFormat(
        name="jsonl",
        extensions=("jsonl", "ndjson"),
        audience="pipes",
        shape="one record per line, written as soon as it is known",
        writer="imgclassify.output.json_lines:JsonLinesWriter",
        reader="imgclassify.output.json_lines:read_json_lines",
        holds_vectors=True,
        lines_of_journal=True,
    ),
    OutputFormat(
        name="csv",
        extensions=("csv",),
        audience="spreadsheets and data frames",
        shape="a header, then one row per image",
        writer="imgclassify.output.csv_tsv:CsvWriter",
        bom_writer="imgclassify.output.csv_tsv:CsvBomWriter",
        reader="imgclassify.output.csv_tsv:read_csv",
    ),
    OutputFormat(
        name="tsv",
        extensions=("tsv",),
        audience="spreadsheets and data frames, with tabs",
        shape="a header, then one row per image",
        writer="imgclassify.output.csv_tsv:TsvWriter",
        bom_writer="imgclassify.output.csv_tsv:TsvBomWriter",
        reader="imgclassify.output.csv_tsv:read_tsv",
    ),
    OutputFormat(
        name="parquet",
        extensions=("parquet",),
        audience="pandas, polars, DuckDB",
        shape="compressed columns, one row per image; vectors are lists of fixed size; files only",
        file_format="imgclassify.output.parquet:ParquetFileFormat",
        package="pyarrow",
        holds_vectors=True,
    ),
    OutputFormat(
        name="npz",
        extensions=("npz",),
        audience="numpy, scikit-learn",
        shape="one array of vectors, and arrays of names, sizes and errors; files only",
        file_format="imgclassify.output.npz:NpzFileFormat",
        record_types=("embeddings", "logits"),
        holds_vectors=True,
    ),
    OutputFormat(
        name="sqlite",
        extensions=("sqlite", "db", "sqlite3"),
        audience="SQL queries",
        shape="a table of images and a table of predictions; files only",
        file_format="imgclassify.output.sqlite:SqliteFileFormat",
    ),
)
"""The output formats of imgclassify itself, without those of other packages."""


def list_formats(record_type: RecordType[Any]) -> list[OutputFormat]:
    """Returns all formats that can hold such records, including those of other packages."""
    return [each for each in (*FORMATS, *load_plugins(PLUGIN_GROUP, OutputFormat)) if each.supports(record_type)]


def find_format(name: str, record_type: RecordType[Any]) -> OutputFormat:
    """Returns the format with this name.

    Raises:
        UsageError: there is no such format, or it cannot hold such records.
    """
    found = _first_match(lambda each: each.name == name, record_type)
    if found is None:
        raise UsageError(f"unknown format {name!r}", hint=f"use one of {_format_names(record_type)}")
    return found


def format_of_path(path: Path, record_type: RecordType[Any]) -> OutputFormat:
    """Returns the format that the extension of a file name selects.

    Raises:
        UsageError: the extension selects no format that can hold such records.
    """
    extension = path.suffix.lower().removeprefix(".")
    found = _first_match(lambda each: extension in each.extensions, record_type)
    if found is None:
        raise UsageError(
            f"the extension of {str(path)!r} is not a known output format",
            hint=f"add --format with one of {_format_names(record_type)}, or use one of them as the extension",
        )
    return found


def format_names(record_type: str, *, has_vectors: bool = False) -> str:
    """Returns the names of imgclassify's own formats for a record type, for the help of an option.

    Args:
        record_type: the name of the record type. Importing the record type itself may take long.
        has_vectors: whether its records have a Vector.
    """
    return ", ".join(
        each.name
        for each in FORMATS
        if (not each.record_types or record_type in each.record_types) and (each.holds_vectors or not has_vectors)
    )


def _first_match(matches: Callable[[OutputFormat], bool], record_type: RecordType[Any]) -> OutputFormat | None:
    for each in FORMATS:
        if matches(each) and each.supports(record_type):
            return each
    # Only now, because searching other packages takes time.
    return next((each for each in list_formats(record_type) if matches(each)), None)


def _format_names(record_type: RecordType[Any]) -> str:
    return ", ".join(each.name for each in list_formats(record_type))
