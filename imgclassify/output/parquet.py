"""Writes and reads parquet: one row per image, with its predictions as a list of structs, in row groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import Field, R, Ranked, Record, RecordType, Scalar, Struct

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 8192
"""Number of rows per row group, which are in memory at the same time."""

_METADATA_KEY = b"imgclassify"


class ParquetFileFormat(Generic[R]):
    """The parquet FileFormat. The provenance is stored in the file's metadata."""

    def __init__(self, record_type: RecordType[R]) -> None:
        self._record_type = record_type

    def check_target(self, path: Path) -> None:
        pass

    def save(self, path: Path, provenance: Provenance, records: Iterable[R]) -> None:
        import pyarrow
        import pyarrow.parquet

        metadata = {_METADATA_KEY: json.dumps(provenance.to_dict()).encode()}
        schema = _schema(self._record_type, provenance.settings).with_metadata(metadata)
        rows = map(_to_row, records)
        # The file is opened here because pyarrow does not accept a file name that is not UTF-8.
        with path.open("wb") as stream, pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
            while group := list(islice(rows, ROW_GROUP)):
                writer.write_table(pyarrow.Table.from_pylist(group, schema))

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        import pyarrow.parquet

        with path.open("rb") as stream:
            metadata = pyarrow.parquet.read_schema(stream).metadata or {}
        value = json.loads(metadata.get(_METADATA_KEY, b"null"))
        return Provenance.from_dict(value, self._record_type), self._read_records(path)

    def _read_records(self, path: Path) -> Iterator[R]:
        import pyarrow.parquet

        with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    name = row.pop("source_bytes")
                    if name is not None:
                        row["source"] = name.decode(errors="surrogateescape")
                    yield self._record_type.from_dict(row)


def _to_row(record: Record) -> dict[str, Any]:
    # Parquet strings are UTF-8. `source_bytes` keeps the exact bytes of a name that is not.
    row = record.to_dict()
    row["model"] = row["model"].encode(errors="backslashreplace").decode()
    try:
        row["source"].encode()
    except UnicodeEncodeError:
        row["source_bytes"] = row["source"].encode(errors="surrogateescape")
        row["source"] = row["source"].encode(errors="backslashreplace").decode()
    return row


def _schema(record_type: RecordType[Any], settings: dict[str, int]) -> pyarrow.Schema:
    import pyarrow

    source, *others = record_type.fields
    columns = {source.name: _column_type(source, settings), "source_bytes": pyarrow.binary()}
    return pyarrow.schema(columns | {field.name: _column_type(field, settings) for field in others})


def _column_type(field: Field, settings: dict[str, int]) -> pyarrow.DataType:
    import pyarrow

    kinds = {"text": pyarrow.string(), "integer": pyarrow.int32(), "real": pyarrow.float64()}
    if isinstance(field, Scalar):
        return kinds[field.kind]
    if isinstance(field, Struct):
        return pyarrow.struct({part.name: kinds[part.kind] for part in field.fields})
    if isinstance(field, Ranked):
        parts = {part.name: kinds[part.kind] for part in field.fields}
        return pyarrow.list_(pyarrow.struct({"rank": pyarrow.int32()} | parts))
    return pyarrow.list_(pyarrow.float32(), settings[field.length])
