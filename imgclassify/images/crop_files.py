"""Writes crops and other images to PNG files, which keep every bit."""

from __future__ import annotations

import csv
import hashlib
import os
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from imgclassify.errors import UsageError, describe_error
from imgclassify.file_names import number_name, safe_name
from imgclassify.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CropFolder"]

TABLE = "inputs.tsv"
"""The file of a CropFolder that lists its images."""

_DIGEST_DIGITS = 16


def encode_png(pixels: NDArray[np.uint8] | Image.Image) -> bytes:
    """Returns a PNG file of an RGB image or of (H, W, 3) uint8. Equal pixels give equal bytes.

    The channels of an array are taken as they are: those of a network that takes BGR look swapped.
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)  # a third of the time of the usual level, for a few more bytes
    return stream.getvalue()


class CropFolder:
    """A folder with one PNG file for each image, and a table `inputs.tsv` of their sources.

        with CropFolder("inputs", model="resnet50") as folder:
            runner.observe_crops(folder.save)

    No file is ever replaced. The name of a file depends only on the name of its source. If the file is there with
    the same pixels, it is not written again. If it has other pixels, the new one gets a number.
    """

    def __init__(self, path: str | os.PathLike[str], *, model: str) -> None:
        """Makes the folder if there is none.

        Args:
            model: for the table.

        Raises:
            UsageError: the folder cannot be written.
        """
        self.path = Path(path)
        self._model = model
        self._lock = Lock()
        self._being_written: dict[Path, bytes] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._table = (self.path / TABLE).open("a+", encoding="utf-8", errors="surrogateescape", newline="")
        except (OSError, ValueError) as error:
            raise self._error(error) from error
        self._rows = csv.writer(self._table, delimiter="\t", lineterminator="\n")
        self._begin_table()

    def save(self, name: str, crop: NDArray[np.uint8]) -> None:
        """Writes a crop. It may be called from many threads at once.

        Args:
            name: the name of the source.
            crop: (H, W, 3) uint8. It may change after the call.

        Raises:
            UsageError: the file cannot be written.
        """
        content = encode_png(crop)
        try:
            with self._lock:
                target = self._reserve(name, content)
            if target is None:
                return
            try:
                with atomic_write(target) as draft:
                    draft.write_bytes(content)
            finally:
                with self._lock:
                    del self._being_written[target]
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the table."""
        with suppress(OSError):  # each row was flushed
            self._table.close()

    def __enter__(self) -> CropFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin_table(self) -> None:
        """Writes the header of a new table, or ends a row that a killed process has left incomplete."""
        end = self._table.tell()
        if not end:
            self._rows.writerow(["file", "model", "source"])
        else:
            with (self.path / TABLE).open("rb") as stream:
                stream.seek(end - 1)
                if stream.read(1) != b"\n":
                    self._table.write("\n")
        self._table.flush()

    def _reserve(self, name: str, content: bytes) -> Path | None:
        """Returns the file for a source, with a row in the table, or None if it is there."""
        file = _file_name(name)
        for number in count(1):
            target = self.path / number_name(file, number)
            present = self._being_written.get(target)
            if present is None and target.exists():
                present = target.read_bytes()
            if present == content:
                return None
            if present is None:
                break
        # The row comes before the file. After a kill in between, the file is written later, with a second row.
        self._rows.writerow([target.name, self._model, name])
        self._table.flush()
        self._being_written[target] = content
        return target

    def _error(self, error: Any) -> UsageError:
        return UsageError(
            f"cannot write to the folder {str(self.path)!r}: {describe_error(error)}",
            hint="choose another folder with --save-input",
        )


def _file_name(source: str) -> str:
    """Returns a readable part of the source's name, and a digest of all of it."""
    last = source.replace("\\", "/").replace("!", "/").partition("?")[0].rstrip("/").rpartition("/")[2]
    stem = "stdin" if source == "-" else safe_name(os.path.splitext(last)[0])  # noqa: PTH122 - any source's name
    digest = hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()
    return f"{stem}-{digest[:_DIGEST_DIGITS]}.png"
