"""Writes the complete file of a resumable format, and reads it back when a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol, TextIO

from imgclassify.errors import UsageError
from imgclassify.files import atomic_write
from imgclassify.output.formats import OutputFormat
from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, RecordType


class FileFormat(Protocol[R]):
    """Writes and reads whole files of one kind of record."""

    def check_target(self, path: Path) -> None:
        """Checks that the file at `path` may be replaced.

        It is called before a run, and again before the file is replaced.

        Raises:
            UsageError: a package is missing, or the existing file must not be replaced.
        """
        ...

    def save(self, path: Path, provenance: Provenance, records: Iterable[R]) -> None:
        """Writes a whole file. Raises OSError if it cannot be written."""
        ...

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        """Writes what the file at `path` cannot hold itself to a sidecar. May do nothing."""
        ...

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        """Reads a file.

        If the file is damaged, this call or the iteration over the records may raise any exception.
        """
        ...


def open_file_format(output_format: OutputFormat, record_type: RecordType[R]) -> FileFormat[R]:
    """Returns the FileFormat of a resumable format.

    Raises:
        UsageError: a package is missing.
    """
    if output_format.file_format:
        found: FileFormat[R] = output_format.load(output_format.file_format)(record_type)
        return found
    return TextFileFormat(output_format, record_type)


class TextFileFormat:
    """A text format. Its provenance is stored in a sidecar, NAME.run.json."""

    def __init__(self, output_format: OutputFormat, record_type: RecordType[R]) -> None:
        assert output_format.writer is not None
        assert output_format.reader is not None
        self._record_type = record_type
        self._create_writer = output_format.load(output_format.writer)
        self._read_stream = output_format.load(output_format.reader)

    def check_target(self, path: Path) -> None:
        _sidecar(path).exists()  # raises OSError if the sidecar's name is too long

    def save(self, path: Path, provenance: Provenance, records: Iterable[R]) -> None:
        with (
            open_text_file(path, "w") as stream,
            self._create_writer(stream, provenance, self._record_type) as writer,
        ):
            for record in records:
                writer.write(record)

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        with atomic_write(_sidecar(path), locked=True) as draft:
            draft.write_text(json.dumps(provenance.to_dict(), indent=1) + "\n", encoding="utf-8")

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        try:
            value = json.loads(_sidecar(path).read_bytes())
        except FileNotFoundError:
            sidecar = _sidecar(path).name
            raise UsageError(
                f"{str(path)!r} cannot be used without {sidecar!r}, which belongs beside it and says with which "
                "model and settings it was made",
                hint=f"put {sidecar!r} back beside it, or choose another --output",
            ) from None
        provenance = Provenance.from_dict(value, self._record_type)
        return provenance, self._read_records(path, provenance)

    def _read_records(self, path: Path, provenance: Provenance) -> Iterator[R]:
        with open_text_file(path, "r") as stream:
            for record in self._read_stream(stream, self._record_type):
                if not provenance.describes(record):
                    raise ValueError(
                        f"a record is of the model {record.model!r}, but the sidecar names {provenance.model!r}"
                    )
                yield record


def open_text_file(path: Path, mode: Literal["r", "w"]) -> TextIO:
    """Opens a file of a text format. Bytes that are not valid UTF-8 are kept as surrogate escapes."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".run.json")
