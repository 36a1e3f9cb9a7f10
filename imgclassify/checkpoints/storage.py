"""A part of a file as numbers, and a tensor as a view of it."""

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
"""The one dtype of checkpoints that numpy does not have."""
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
}
"""Bytes that a number of each dtype takes."""
MAX_SIDES = 64
"""Dimensions of a tensor: numpy's and torch's own limit."""


class MappedFile:
    """A file mapped into memory, privately: writing to what it holds does not reach the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version = _file_version(path)
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = memoryview(self._map)

    def __len__(self) -> int:
        return len(self._bytes)

    def view(self, start: int, size: int) -> memoryview:
        """Raises ValueError where the file is shorter."""
        if start < 0 or size < 0 or start + size > len(self._bytes):
            raise ValueError(f"it ends at byte {len(self._bytes)}, before the tensors do")
        return self._bytes[start : start + size]

    @property
    def has_changed(self) -> bool:
        """Whether another file, or another version of it, lies at its path since."""
        try:
            return _file_version(self.path) != self._version
        except OSError:
            return True

    def release(self, start: int, size: int) -> None:
        """Lets the system take back the memory of a part that has been copied; it is read again if need be."""
        begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and start + size - begin >= mmap.PAGESIZE:
            self._map.madvise(mmap.MADV_DONTNEED, begin, start + size - begin)


def _file_version(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_MAX_REPEATED = 2**20
"""Numbers that a tensor may have where its storage has fewer, as an expanded one does."""


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of C order, in elements."""
    return tuple(accumulate(shape[:0:-1], mul, initial=1))[::-1] if shape else ()


@dataclass(slots=True)
class Storage:
    """The numbers that one or more tensors share. Where they lie may be found out after the tensors."""

    dtype: str
    """numpy's name, or BFLOAT16."""
    count: int
    """How many numbers."""
    file: MappedFile | None = None
    start: int = 0
    """Where in the file they begin."""

    @property
    def itemsize(self) -> int:
        return ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, not looked at yet."""

    storage: Storage
    offset: int
    """Where in the storage it begins; in elements, as are the strides."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """numpy's name, or BFLOAT16."""
        return self.storage.dtype

    def file_location(self) -> tuple[Path, int, int] | None:
        """(file, byte where it begins, bytes) of a tensor that lies in the file in C order; None of another.

        Raises:
            ValueError: the file is too short.
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
            raise ValueError("a tensor ends beyond its storage")
        begin, size = self.storage.start + self.offset * self.storage.itemsize, count * self.storage.itemsize
        self.storage.file.view(begin, size)
        return self.storage.file.path, begin, size

    def to_array(self) -> NDArray[Any]:
        """The tensor as an array, aligned and C-contiguous: the file's own memory if it is so there, else a copy.

        Raises:
            ValueError: it reaches beyond its storage, or the storage beyond the file.
        """
        import numpy as np

        storage, size = self.storage, self.storage.itemsize
        if storage.file is None:
            raise ValueError("the numbers of a tensor are missing")
        if math.prod(self.shape) == 0:
            return np.empty(self.shape, np.float32 if storage.dtype == BFLOAT16 else storage.dtype)
        if math.prod(self.shape) > max(storage.count, _MAX_REPEATED):
            raise ValueError(f"a tensor of {self.shape} repeats the {storage.count} numbers it is made of")
        array: NDArray[Any] = np.ndarray(
            self.shape,
            np.uint16 if storage.dtype == BFLOAT16 else storage.dtype,
            buffer=storage.file.view(storage.start, storage.count * size),
            offset=self.offset * size,
            strides=tuple(step * size for step in self.stride),
        )
        # PyTorch's older format puts numbers wherever its pickles happen to end.
        if array.flags.c_contiguous and array.flags.aligned and storage.dtype != BFLOAT16:
            return array
        copied = np.array(array, order="C")
        storage.file.release(storage.start, storage.count * size)
        # A bfloat16 is the upper half of the float32 of the same value.
        return (copied.astype(np.uint32) << 16).view(np.float32) if storage.dtype == BFLOAT16 else copied
