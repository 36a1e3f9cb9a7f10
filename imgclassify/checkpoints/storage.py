"""Storages, which are parts of a mapped file read as numbers, and tensors, which are views of storages."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

BFLOAT16 = "bfloat16"
"""The only dtype of checkpoints that numpy does not have."""
ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    BFLOAT16: 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    "untyped": 1,
}
"""The size of a number of each dtype, in bytes. numpy cannot read those from qint8 on, which are skipped."""
LENGTH_LIMIT = 2**63
"""Larger than any length in a file."""
MAX_SIDES = 64
"""The largest number of dimensions of a tensor: numpy's and torch's own limit."""


class MappedFile:
    """A file that is mapped into memory privately: writing to the memory does not change the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = _file_version(path)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = memoryview(self._map)

    def __len__(self) -> int:
        return len(self._bytes)

    def view(self, start: int, size: int) -> memoryview:
        """Returns `size` bytes from offset `start`, without a copy.

        Raises:
            ValueError: the file ends before them.
        """
        if start < 0 or size < 0 or start + size > len(self._bytes):
            raise ValueError(f"it ends at byte {len(self._bytes)}, before its content ends")
        return self._bytes[start : start + size]

    @property
    def has_changed(self) -> bool:
        """Whether another file, or another version of the file, is now at its path."""
        try:
            return _file_version(self.path) != self._version
        except OSError:
            return True

    def release(self, start: int, size: int) -> None:
        """Lets the system free the memory of a copied part. If needed, it is read from the file again."""
        begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and start + size - begin >= mmap.PAGESIZE:
            self._map.madvise(mmap.MADV_DONTNEED, begin, start + size - begin)


def _file_version(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_MAX_REPEATED = 2**20
"""The most numbers that a tensor may have if its storage has fewer, as for an expanded tensor."""


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides of C order, in elements."""
    return tuple(accumulate(shape[:0:-1], mul, initial=1))[::-1] if shape else ()


@dataclass(slots=True)
class Storage:
    """The numbers that one or more tensors share. `file` and `start` may be set after the tensors exist."""

    dtype: str
    """numpy's name, or BFLOAT16."""
    count: int
    """The number of numbers."""
    file: MappedFile | None = None
    start: int = 0
    """The offset of the numbers in the file, in bytes."""

    @property
    def itemsize(self) -> int:
        return ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, whose numbers have not been read yet."""

    storage: Storage
    offset: int
    """The offset in the storage, in elements."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In elements."""

    @property
    def dtype(self) -> str:
        """numpy's name, or BFLOAT16."""
        return self.storage.dtype

    def file_location(self) -> tuple[Path, int, int] | None:
        """Returns (file, offset, size), in bytes, if the tensor is stored in C order in a file, else None.

        Raises:
            ValueError: the storage or the file is too short.
        """
        sides = zip(self.shape, self.stride, c_strides(self.shape), strict=True)
        count = math.prod(self.shape)
        if (
            self.storage.file is None
            or not count
            or any(side != 1 and step != wanted for side, step, wanted in sides)
        ):
            return None
        if self.offset + count > self.storage.count:
            raise ValueError("a tensor ends after its storage")
        begin, size = self.storage.start + self.offset * self.storage.itemsize, count * self.storage.itemsize
        self.storage.file.view(begin, size)
        return self.storage.file.path, begin, size

    def to_array(self) -> NDArray[Any]:
        """Returns the tensor as an aligned, C-contiguous array. bfloat16 is converted to float32.

        The array is in the file's mapped memory if the tensor is aligned and C-contiguous there, else a copy.

        Raises:
            ValueError: the tensor reaches beyond its storage, or the storage beyond the file.
        """
        import numpy as np

        storage, size = self.storage, self.storage.itemsize
        if storage.file is None:
            raise ValueError("the numbers of a tensor are missing")
        if math.prod(self.shape) == 0:
            return np.empty(self.shape, np.float32 if storage.dtype == BFLOAT16 else storage.dtype)
        if math.prod(self.shape) > max(storage.count, _MAX_REPEATED):
            raise ValueError(f"a tensor of shape {self.shape} repeats the {storage.count} numbers of its storage")
        array: NDArray[Any] = np.ndarray(
            self.shape,
            np.uint16 if storage.dtype == BFLOAT16 else storage.dtype,
            buffer=storage.file.view(storage.start, storage.count * size),
            offset=self.offset * size,
            strides=tuple(step * size for step in self.stride),
        )
        # In PyTorch's older format, numbers begin where the pickles end, which need not be aligned.
        if array.flags.c_contiguous and array.flags.aligned and storage.dtype != BFLOAT16:
            return array
        copied = np.array(array, order="C")
        storage.file.release(storage.start, storage.count * size)
        # A bfloat16 is the upper half of the float32 of the same value.
        return (copied.astype(np.uint32) << 16).view(np.float32) if storage.dtype == BFLOAT16 else copied
