"""Keeps the features of images from one training to the next, by the digests of their files.

There is one file for each network and way to run it. It begins with a line of JSON that says what it is for. Then
come records of equal size, each with a checksum. Whole records are appended and nothing else changes, so a process
that is killed at any moment leaves at most a torn last record.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import weakref
import zlib
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self

from imgclassify import files, paths
from imgclassify.engines import FEATURES
from imgclassify.errors import WeightsError, describe_error
from imgclassify.training.near_duplicates import FINGERPRINT_VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.results import RunInfo

logger = logging.getLogger("imgclassify")

SUFFIX = ".features"
"""The end of a file's name."""

_SCHEMA = "imgclassify.features/1"
_MAX_HEADER_BYTES = 2**16
_FLUSH_SECONDS = 2.0
"""New features are written when the last ones were written this long ago."""
_BLOCK = 1024
"""Records that are read at a time to find their digests."""


class CachedImage(NamedTuple):
    """What is kept of an image."""

    fingerprint: bytes
    features: NDArray[np.float32]
    """(V, D)."""


class _Layout(NamedTuple):
    """The form of all records of a file."""

    fingerprint_bytes: int
    views: int
    dimension: int

    def dtype(self) -> np.dtype[np.void]:
        import numpy as np

        return np.dtype(
            [
                ("sha256", np.uint8, 32),
                ("fingerprint", np.uint8, self.fingerprint_bytes),
                ("features", "<f4", (self.views, self.dimension)),
                ("checksum", "<u4"),
            ]
        )


class FeatureCache:
    """The features of one network, run in one way. As a context manager, it writes what is new at the end.

    Any thread may call `get`. `add` and `flush` are for one thread. Several processes may use a file at once: each
    sees the records that were there when it opened the file.
    """

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        """Opens the file, which need not exist.

        Args:
            path: a file named after the key.
            key: all that the features depend on, besides the image. Plain values for JSON.
        """
        self._path = path
        self._key = key
        self._layout: _Layout | None = None
        self._places: dict[bytes, int] = {}
        """Where the record of each digest begins in the file."""
        self._stream: BinaryIO | None = None
        self._lock = Lock()
        self._new: dict[bytes, CachedImage] = {}
        self._flushed = time.monotonic()
        try:
            self._find_records()
        except OSError as error:  # most often because it does not exist
            if not isinstance(error, FileNotFoundError):
                logger.warning("kept features cannot be read: %s: %s", path, describe_error(error))

    @classmethod
    def open(cls, run: RunInfo, *, views: int = 0, seed: int = 0) -> Self | None:
        """Opens the cache for a runner, or returns None if it is not known which weights it has.

        Args:
            run: ModelRunner.run_info.
            views: the number of augmented views of each image.
            seed: of the views.
        """
        if run.weights_sha256 is None:
            return None
        key = {
            "version": run.version,  # it may decode differently
            "model": run.model,
            "architecture": run.architecture,
            "weights_sha256": run.weights_sha256,
            "options": run.options,
            "preprocess": run.preprocess,
            "decode_mode": run.decode_mode,
            "output": FEATURES,
            # The last digits depend on what computes.
            "engine": run.engine,
            "device": run.device.partition(":")[0],
            "dtype": run.dtype,
            "fingerprint": FINGERPRINT_VERSION,
            "views": views,
            "seed": seed if views else None,
        }
        name = hashlib.sha256(_to_json(key).encode()).hexdigest()[:32]
        return cls(paths.features_folder() / f"{name}{SUFFIX}", key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.flush()

    @property
    def num_images(self) -> int:
        """How many images were in the file when it was opened."""
        return len(self._places)

    def get(self, sha256: bytes) -> CachedImage | None:
        """Returns what was in the file for an image, or None."""
        import numpy as np

        place = self._places.get(sha256)
        if place is None or self._stream is None or self._layout is None:
            return None
        dtype = self._layout.dtype()
        try:
            with self._lock:
                self._stream.seek(place)
                record = self._stream.read(dtype.itemsize)
        except OSError:
            return None
        if len(record) < dtype.itemsize or not _is_sound(record):
            return None
        [values] = np.frombuffer(record, dtype)
        return CachedImage(values["fingerprint"].tobytes(), values["features"].astype(np.float32))

    def add(self, sha256: bytes, fingerprint: bytes, features: NDArray[np.float32]) -> None:
        """Keeps an image. It is written soon, at the latest by `flush`.

        Args:
            features: (V, D).
        """
        self._new[sha256] = CachedImage(fingerprint, features)
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is new. Logs a warning if that is not possible."""
        records, self._new = self._new, {}
        if not records:
            return
        try:
            with files.lock_file(self._path, "write features", hint="see XDG_CACHE_HOME"):
                self._append(records)
        except (WeightsError, OSError) as error:
            logger.warning("features are not kept for the next run: %s", describe_error(error))
        self._flushed = time.monotonic()

    # The file -----------------------------------------------------------------------------------------------

    def _find_records(self) -> None:
        """Opens the file for reading, and finds the digests of its whole records."""
        import numpy as np

        self._stream = self._path.open("rb")
        weakref.finalize(self, self._stream.close)
        self._layout = self._read_header(self._stream)
        if self._layout is None:
            return
        dtype, place = self._layout.dtype(), self._stream.tell()
        while block := self._stream.read(_BLOCK * dtype.itemsize):
            whole = len(block) // dtype.itemsize
            for digest in np.frombuffer(block, dtype, whole)["sha256"]:
                self._places[digest.tobytes()] = place
                place += dtype.itemsize

    def _append(self, images: dict[bytes, CachedImage]) -> None:
        """Appends records while no other process does, after dropping a torn last one."""
        some = next(iter(images.values()))
        layout = _Layout(len(some.fingerprint), *some.features.shape)
        size = layout.dtype().itemsize
        records = b"".join(_to_record(sha256, image) for sha256, image in images.items())
        with self._path.open("ab+") as stream:
            stream.seek(0)
            if self._read_header(stream) == layout:
                begin = stream.tell()
                end = stream.seek(0, 2)
                stream.truncate(end - (end - begin) % size)
            else:  # an empty file, or not one of ours
                stream.truncate(0)
                records = self._header(layout) + records
            stream.write(records)

    def _header(self, layout: _Layout) -> bytes:
        return _to_json({"schema": _SCHEMA, "key": self._key, "layout": layout._asdict()}).encode() + b"\n"

    def _read_header(self, stream: BinaryIO) -> _Layout | None:
        """Returns the form of the records, which begin where the stream then is. None if it is another file."""
        line = stream.readline(_MAX_HEADER_BYTES)
        try:
            layout = _Layout(**json.loads(line)["layout"])
            return layout if line == self._header(layout) else None
        except (KeyError, TypeError, ValueError, RecursionError):
            return None


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _to_record(sha256: bytes, image: CachedImage) -> bytes:
    content = sha256 + image.fingerprint + image.features.astype("<f4").tobytes()
    return content + zlib.crc32(content).to_bytes(4, "little")


def _is_sound(record: bytes) -> bool:
    return zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little")
