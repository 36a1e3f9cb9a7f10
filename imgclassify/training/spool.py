"""Keeps images that are only in memory in a temporary file, so that they can be opened again and again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from io import BytesIO
from tempfile import TemporaryFile
from threading import Lock
from typing import BinaryIO

from imgclassify.errors import ImageError
from imgclassify.sources import Source
from imgclassify.sources.source import read_all


class Spool:
    """The bytes of images. The file has no name, and is gone when this object and the sources are."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - it is open as long as the object lives
        weakref.finalize(self, self._file.close)
        self._lock = Lock()

    def keep(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Yields the sources. Those in memory, such as the members of a tar archive, are opened from the file."""
        for source in sources:
            if not source.in_memory:
                yield source
                continue
            try:
                with closing(source.open()) as stream:
                    content = read_all(stream, source.name)
            except ImageError:  # whoever opens it gets the error again
                yield source
                continue
            with self._lock:
                offset = self._file.seek(0, 2)
                self._file.write(content)
            yield replace(source, open=partial(self._open, offset, len(content)), in_memory=False)

    def _open(self, offset: int, size: int) -> BinaryIO:
        with self._lock:  # any thread may open a source
            self._file.seek(offset)
            return BytesIO(self._file.read(size))
