"""Keeps fingerprints in a temporary file, so that memory does not grow by 25 KB with each image."""

from __future__ import annotations

import weakref
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import numpy as np

from imgclassify.similarity.alignment import Fingerprint


class _Place(NamedTuple):
    offset: int
    keypoints: int
    height: int
    width: int


class FingerprintStore:
    """Fingerprints by a number. The file has no name, and is gone when this object is."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - it is open as long as the object lives
        weakref.finalize(self, self._file.close)
        self._places: dict[int, _Place] = {}

    def add(self, number: int, fingerprint: Fingerprint) -> None:
        offset = self._file.seek(0, 2)
        parts = (
            fingerprint.points.astype(np.complex64),
            fingerprint.frames.astype(np.complex64),
            fingerprint.descriptors,
            fingerprint.thumbnail,
        )
        self._file.write(b"".join(part.tobytes() for part in parts))
        self._places[number] = _Place(offset, len(fingerprint.points), *fingerprint.thumbnail.shape)

    def read(self, number: int) -> Fingerprint:
        place = self._places[number]
        self._file.seek(place.offset)

        def take(dtype: Any, *shape: int) -> Any:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return np.frombuffer(self._file.read(size), dtype).reshape(shape)

        return Fingerprint(
            points=take(np.complex64, place.keypoints),
            frames=take(np.complex64, place.keypoints),
            descriptors=take(np.uint8, place.keypoints, 128),
            thumbnail=take(np.uint8, place.height, place.width),
        )
