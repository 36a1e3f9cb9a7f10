"""How an output is written whole, and read back: the forms of the formats that a run can be resumed from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TextIO

from imgclassify.errors import UsageError
from imgclassify.output.atomic import atomic_write
from imgclassify.output.delimited import DELIMITERS, DelimitedWriter, read_delimited
from imgclassify.output.json_lines import JsonLinesWriter, read_json_lines
from imgclassify.output.provenance import Provenance
from imgclassify.results import ImageResult


class FileFormat(Protocol):
    def check(self, path: Path) -> None:
        """
        Raises:
            UsageError: a package is missing, or what lies there should not be replaced.
        """
        ...

    def save(self, path: Path, provenance: Provenance, results: Iterable[ImageResult]) -> None:
        """Writes a file. OSError where it cannot be written."""
        ...

    def invalidate_sidecar(self, path: Path) -> None:
        """Makes way for a new file at `path`: what lies beside the one that is there no longer holds."""
        ...

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        """Writes what the file at `path` cannot itself hold."""
        ...

    def load(self, path: Path) -> tuple[Provenance, Iterator[ImageResult]]:
        """What a file holds. Exceptions of any kind, also while the results are taken, where it is damaged."""
        ...


def file_format(format_name: str) -> FileFormat:
    """That of one of KEPT_FORMATS."""
    if format_name == "sqlite":
        from imgclassify.output.sqlite import SqliteFileFormat

        return SqliteFileFormat()
    if format_name == "parquet":
        if not find_spec("pyarrow"):
            raise UsageError("parquet needs an extra package", hint="pip install 'imgclassify[parquet]'")
        from imgclassify.output.parquet import ParquetFileFormat

        return ParquetFileFormat()
    return TextFileFormat(format_name)


class TextFileFormat:
    """One record a line; the provenance lies in a file beside."""

    def __init__(self, format_name: str) -> None:
        self._format = format_name

    def check(self, path: Path) -> None:
        _beside(path).exists()  # not where the name would be too long

    def save(self, path: Path, provenance: Provenance, results: Iterable[ImageResult]) -> None:
        with _text(path, "w") as stream, self._writer(stream, provenance.top_k) as writer:
            for result in results:
                writer.write(result)

    def invalidate_sidecar(self, path: Path) -> None:
        _beside(path).unlink(missing_ok=True)

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        with atomic_write(_beside(path)) as draft:
            draft.write_text(json.dumps(provenance.to_dict(), indent=1) + "\n", encoding="utf-8")

    def load(self, path: Path) -> tuple[Provenance, Iterator[ImageResult]]:
        try:
            provenance = Provenance.from_dict(json.loads(_beside(path).read_bytes()))
        except FileNotFoundError:
            raise ValueError(f"{_beside(path).name!r}, which says what it rests on, is not beside it") from None
        return provenance, self._read(path, provenance.model)

    def _writer(self, stream: TextIO, top_k: int) -> DelimitedWriter | JsonLinesWriter:
        if self._format == "jsonl":
            return JsonLinesWriter(stream)
        return DelimitedWriter(stream, top_k=top_k, delimiter=DELIMITERS[self._format])

    def _read(self, path: Path, model: object) -> Iterator[ImageResult]:
        with _text(path, "r") as stream:
            if self._format == "jsonl":
                results = read_json_lines(stream)
            else:
                results = read_delimited(stream, DELIMITERS[self._format])
            for result in results:
                if result.model != model:
                    raise ValueError(
                        f"a record is of the model {result.model!r}, and the file beside it of {model!r}"
                    )
                yield result


def _text(path: Path, mode: Literal["r", "w"]) -> TextIO:
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".run.json")
