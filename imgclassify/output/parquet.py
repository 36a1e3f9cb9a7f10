"""parquet: a row an image, its predictions a list of structs. Written in row groups as they fill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclassify.output.provenance import Provenance
from imgclassify.results import ImageResult

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 8192
"""Rows that are in memory at the same time."""

_METADATA_KEY = b"imgclassify"


class ParquetFileFormat:
    """See forms.Form. The provenance is in the file's metadata."""

    def check(self, path: Path) -> None:
        pass

    def save(self, path: Path, provenance: Provenance, results: Iterable[ImageResult]) -> None:
        import pyarrow
        import pyarrow.parquet

        schema = _schema().with_metadata({_METADATA_KEY: json.dumps(provenance.to_dict()).encode()})
        rows = map(_row, results)
        # Opened here, since pyarrow takes no name that is not UTF-8.
        with path.open("wb") as stream, pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
            while group := list(islice(rows, ROW_GROUP)):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))

    def invalidate_sidecar(self, path: Path) -> None:
        pass

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[ImageResult]]:
        import pyarrow.parquet

        with path.open("rb") as stream:
            metadata = pyarrow.parquet.read_schema(stream).metadata or {}
        return Provenance.from_dict(json.loads(metadata.get(_METADATA_KEY, b"null"))), _results(path)


def _results(path: Path) -> Iterator[ImageResult]:
    import pyarrow.parquet

    with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                name = row.pop("source_bytes")
                yield ImageResult.from_dict(row if name is None else row | {"source": _decoded(name)})


def _row(result: ImageResult) -> dict[str, Any]:
    row = result.to_dict()
    row["model"] = row["model"].encode(errors="backslashreplace").decode()
    try:
        row["source"].encode()
    except UnicodeEncodeError:
        row["source_bytes"] = row["source"].encode(errors="surrogateescape")
        row["source"] = row["source"].encode(errors="backslashreplace").decode()
    return row


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _schema() -> pyarrow.Schema:
    import pyarrow

    prediction = pyarrow.struct(
        {
            "rank": pyarrow.int32(),
            "class_index": pyarrow.int32(),
            "wnid": pyarrow.string(),
            "label": pyarrow.string(),
            "probability": pyarrow.float64(),
        }
    )
    return pyarrow.schema(
        {
            "source": pyarrow.string(),
            "source_bytes": pyarrow.binary(),
            "model": pyarrow.string(),
            "width": pyarrow.int32(),
            "height": pyarrow.int32(),
            "predictions": pyarrow.list_(prediction),
            "error": pyarrow.struct({"type": pyarrow.string(), "message": pyarrow.string()}),
        }
    )
