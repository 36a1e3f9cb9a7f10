"""Writes and reads .npz: one array with a row per image, and beside it the names, sizes and errors.

A failed image has a row of NaN. `numpy.load` reads the file without pickle.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Generic

from imgclassify.output.provenance import Provenance
from imgclassify.output.records import R, Record, RecordType, Vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROVENANCE = "provenance"
_ROWS = 1024
"""Number of records that are in memory at the same time when a file is read."""


class NpzFileFormat(Generic[R]):
    """The .npz FileFormat, for record types with one Vector. Memory does not grow with the number of records."""

    def __init__(self, record_type: RecordType[R]) -> None:
        self._record_type = record_type
        [self._vector] = [field for field in record_type.fields if isinstance(field, Vector)]

    def check_target(self, path: Path) -> None:
        pass

    def save(self, path: Path, provenance: Provenance, records: Iterable[R]) -> None:
        dtype = str(provenance.settings[self._vector.dtype])
        with ExitStack() as stack:
            # The size of an array must be known before its first row is written, so rows are collected first.
            rows, lines = (stack.enter_context(TemporaryFile(dir=path.parent)) for _ in range(2))
            count, dimension, longest = self._collect(records, dtype, rows, lines)
            archive = stack.enter_context(zipfile.ZipFile(path, "w", allowZip64=True))
            rows.seek(0)
            _write_array(archive, self._vector.name, dtype, (count, dimension), iter(lambda: rows.read(2**20), b""))
            for name, width in longest.items():
                kind = f"<U{max(width, 1)}" if name in _TEXTS else "<i4"
                lines.seek(0)
                _write_array(archive, name, kind, (count,), _encode_column(lines, name, kind))
            text = json.dumps(provenance.to_dict())
            _write_array(archive, _PROVENANCE, f"<U{len(text)}", (), iter([_encode(text, f"<U{len(text)}")]))

    def save_sidecar(self, path: Path, provenance: Provenance) -> None:
        pass

    def load(self, path: Path) -> tuple[Provenance, Iterator[R]]:
        with zipfile.ZipFile(path) as archive:
            value = json.loads(str(_open_array(archive, _PROVENANCE)[1](1)[0]))
        return Provenance.from_dict(value, self._record_type), self._read_records(path)

    def _collect(
        self, records: Iterable[R], dtype: str, rows: IO[bytes], lines: IO[bytes]
    ) -> tuple[int, int, dict[str, int]]:
        """Writes the vectors to `rows`, and the other columns to `lines`, as JSON lines.

        Returns:
            The number of records, the length of a vector, and for each column the length of its longest text.
        """
        import numpy as np

        count = dimension = 0
        longest = dict.fromkeys(_COLUMNS, 0)
        for record in records:
            vector = record.to_dict()[self._vector.name]
            if vector is not None and not dimension:
                dimension = len(vector)
                _write_missing(rows, count, dimension, dtype)
            columns = _to_columns(record)
            if vector is not None:
                rows.write(np.asarray(vector, dtype).tobytes())
            elif dimension:
                _write_missing(rows, 1, dimension, dtype)
            for name, value in columns.items():
                longest[name] = max(longest[name], len(value) if isinstance(value, str) else 0)
            lines.write(json.dumps(columns).encode() + b"\n")
            count += 1
        return count, dimension, longest

    def _read_records(self, path: Path) -> Iterator[R]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            count, read = _open_array(archive, self._vector.name)
            model = Provenance.from_dict(
                json.loads(str(_open_array(archive, _PROVENANCE)[1](1)[0])), self._record_type
            ).model
            present = set(archive.namelist())
            columns = {
                name: _open_array(archive, name)[1]
                for name in _COLUMNS
                if name not in _ADDED or f"{name}.npy" in present
            }
            for begin in range(0, count, _ROWS):
                size = min(_ROWS, count - begin)
                vectors = read(size)
                parts = {name: part(size).tolist() for name, part in columns.items()}
                for index in range(size):
                    row = {name: part[index] for name, part in parts.items()}
                    yield self._record_type.from_dict(_from_columns(row, model, self._vector.name, vectors[index]))


_TEXTS = ("source", "error_type", "error_message")
_ADDED = ("frames", "frame", "damaged")
"""The columns that files of earlier versions lack."""
_COLUMNS = (*_TEXTS, "width", "height", *_ADDED)


def _to_columns(record: Record) -> dict[str, Any]:
    """Returns the values of the columns. There is no null in them: it becomes an empty text, or 0."""
    values = record.to_dict()
    return {
        "source": record.source,
        "error_type": record.error.type if record.error else "",
        "error_message": record.error.message if record.error else "",
        "width": values["width"] or 0,
        "height": values["height"] or 0,
        **{name: int(values.get(name) or 0) for name in _ADDED},
    }


def _from_columns(row: dict[str, Any], model: object, name: str, vector: NDArray[Any]) -> dict[str, Any]:
    failed = bool(row["error_type"])
    return {
        "source": row["source"],
        "model": model,
        "width": row["width"] or None,
        "height": row["height"] or None,
        "frames": row.get("frames") or None,
        "frame": row.get("frame") or None,
        "damaged": bool(row.get("damaged")),
        name: None if failed else vector,
        "error": {"type": row["error_type"], "message": row["error_message"]} if failed else None,
    }


def _write_missing(rows: IO[bytes], count: int, dimension: int, dtype: str) -> None:
    import numpy as np

    row = np.full(dimension, np.nan, dtype).tobytes()
    for _ in range(count):
        rows.write(row)


def _encode_column(lines: Iterable[bytes], name: str, kind: str) -> Iterator[bytes]:
    return (_encode(json.loads(line)[name], kind) for line in lines)


def _encode(value: Any, kind: str) -> bytes:
    import numpy as np

    return np.array(value, kind).tobytes()


def _write_array(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...], parts: Iterator[bytes]
) -> None:
    """Writes a member NAME.npy in the format of numpy.lib.format, part by part."""
    import numpy as np

    # A fixed date, so that equal records give equal files.
    with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(member, header)
        for part in parts:
            member.write(part)


def _open_array(archive: zipfile.ZipFile, name: str) -> tuple[int, Callable[[int], NDArray[Any]]]:
    """Opens a member NAME.npy.

    Returns:
        The number of rows, and a function that returns the next rows.
    """
    import numpy as np

    member = archive.open(f"{name}.npy")
    if np.lib.format.read_magic(member) != (2, 0):
        raise ValueError(f"the array {name!r} was not written by imgclassify")
    shape, _, dtype = np.lib.format.read_array_header_2_0(member)

    def read(size: int) -> NDArray[Any]:
        width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        content = member.read(size * width)
        return np.frombuffer(content, dtype).reshape(size, *shape[1:])

    return (shape[0] if shape else 1), read
