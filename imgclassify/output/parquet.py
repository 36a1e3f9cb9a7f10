"""Writes and reads parquet: one row per image, with its predictions as a list of structs, in row groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import Field, R, Ranked, Record, RecordType, Scalar, Struct, Texts, Vector

if TYPE_CHECKING:
    import pyarrow

ROW_GROUP = 8192
"""Number of rows per row group, which are in memory at the same time."""
VECTOR_ROW_GROUP = 1024
"""The same for record types with a Vector."""

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
        lengths, rows = self._vector_lengths(map(_to_row, records))
        schema = _schema(self._record_type, provenance.settings, lengths).with_metadata(metadata)
        size = VECTOR_ROW_GROUP if self._record_type.has_vectors else ROW_GROUP
        # The file is opened here because pyarrow does not accept a file name that is not UTF-8.
        # A dictionary of numbers that hardly ever occur twice takes time and makes the file larger.
        plain = [name for name in schema.names if name not in lengths]
        with (
            path.open("wb") as stream,
            pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd", use_dictionary=plain) as writer,
        ):
            while group := list(islice(rows, size)):
                columns = [
                    _vector_column([row[field.name] for row in group], field.type)
                    if field.name in lengths
                    else pyarrow.array([row.get(field.name) for row in group], field.type)
                    for field in schema
                ]
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        import pyarrow.parquet

        with path.open("rb") as stream:
            metadata = pyarrow.parquet.read_schema(stream).metadata or {}
        value = json.loads(metadata.get(_METADATA_KEY, b"null"))
        return Provenance.from_dict(value, self._record_type), self._read_records(path)

    def _vector_lengths(self, rows: Iterator[dict[str, Any]]) -> tuple[dict[str, int], Iterator[dict[str, Any]]]:
        """Returns the length of each vector by field, and the rows again. Only a record has it.

        A field that is null in all rows has length 1.
        """
        names = [field.name for field in self._record_type.fields if isinstance(field, Vector)]
        lengths: dict[str, int] = {}
        seen = []
        while len(lengths) < len(names) and (row := next(rows, None)):
            seen.append(row)
            lengths |= {name: len(row[name]) for name in names if row[name] is not None}
        return dict.fromkeys(names, 1) | lengths, chain(seen, rows)

    def _read_records(self, path: Path) -> Iterator[R]:
        import pyarrow.parquet

        vectors = [field.name for field in self._record_type.fields if isinstance(field, Vector)]
        with path.open("rb") as stream, pyarrow.parquet.ParquetFile(stream) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                arrays = {name: _read_vectors(table.column(name)) for name in vectors}
                for index, row in enumerate(table.drop_columns(vectors).to_pylist()):
                    row |= {name: column[index] for name, column in arrays.items()}
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


def _vector_column(vectors: list[Any], column_type: pyarrow.DataType) -> pyarrow.Array:
    import numpy as np
    import pyarrow

    values = np.zeros((len(vectors), column_type.list_size), column_type.value_type.to_pandas_dtype())
    for row, vector in zip(values, vectors, strict=True):
        if vector is not None:
            row[:] = vector
    missing = pyarrow.array([vector is None for vector in vectors])
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), type=column_type, mask=missing)


def _read_vectors(column: pyarrow.ChunkedArray) -> list[Any]:
    """Returns an array for each row, or None where it is null."""
    vectors = column.combine_chunks()
    rows = vectors.values.to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
    present = vectors.is_valid().to_pylist()
    return [row if there else None for row, there in zip(rows, present, strict=True)]


def _schema(
    record_type: RecordType[Any], settings: dict[str, int | str], lengths: dict[str, int]
) -> pyarrow.Schema:
    """
    Args:
        lengths: the length of each Vector, by its name.
    """
    import pyarrow

    source, *others = record_type.fields
    columns = {source.name: _column_type(source), "source_bytes": pyarrow.binary()}
    for field in others:
        if isinstance(field, Vector):
            kinds = {"float32": pyarrow.float32(), "float16": pyarrow.float16()}
            columns[field.name] = pyarrow.list_(kinds[str(settings[field.dtype])], lengths[field.name])
        else:
            columns[field.name] = _column_type(field)
    return pyarrow.schema(columns)


def _column_type(field: Field) -> pyarrow.DataType:
    import pyarrow

    kinds = {
        "text": pyarrow.string(),
        "integer": pyarrow.int32(),
        "real": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    if isinstance(field, Scalar):
        return kinds[field.kind]
    if isinstance(field, Texts):
        return pyarrow.list_(pyarrow.string())
    if isinstance(field, Struct):
        return pyarrow.struct({part.name: kinds[part.kind] for part in field.fields})
    assert isinstance(field, Ranked)
    parts = {part.name: kinds[part.kind] for part in field.fields}
    return pyarrow.list_(pyarrow.struct({"rank": pyarrow.int32()} | parts))
