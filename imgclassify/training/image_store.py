"""Keeps decoded images in a file for the epochs of a training, so that each is decoded once.

Images are decoded as in predict. Images to be augmented are made smaller first, as `reduced_size` says.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from imgclassify import pipeline
from imgclassify.errors import ImageError, describe_error, make_printable
from imgclassify.files import atomic_write
from imgclassify.images import MAX_PIXELS, decoding
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import input_from_source
from imgclassify.results import ImageFailure
from imgclassify.runner import default_workers
from imgclassify.training.work_folder import INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec, Size
    from imgclassify.sources import Source

    Decode = Callable[[Source], NDArray[np.uint8]]
    """Decodes a source to (H, W, 3) uint8. Raises ImageError. Called from many threads."""

logger = logging.getLogger("imgclassify")

_SHARE_OF_DISK = 0.5
"""The share of the free space of its disk that a store may fill. Other images are decoded each time."""


class DecodeOptions(NamedTuple):
    """Which images are decoded. The fields are those of RunnerOptions."""

    max_pixels: int = MAX_PIXELS
    decode_damaged: bool = False


def crop_decoder(spec: PreprocessSpec, options: DecodeOptions) -> Decode:
    """Returns the function that decodes a source to the crop that predict gives the network, bit for bit."""
    preprocess = create_preprocessor(
        "exact", spec, "cpu", max_pixels=options.max_pixels, decode_damaged=options.decode_damaged
    )

    def decode(source: Source) -> NDArray[np.uint8]:
        crop = np.empty((*spec.crop_size, 3), np.uint8)
        preprocess(input_from_source(source), crop)
        return crop

    return decode


def image_decoder(crop_size: Size, least_area: float, options: DecodeOptions) -> Decode:
    """Returns the function that decodes a source to a whole image in RGB, upright, as `reduced_size` says.

    Args:
        crop_size: (height, width) of the network's crops.
        least_area: the smallest part that will be cut out, as a part of the area of the image.
    """
    return partial(_decode_image, crop_size, least_area, options)


def reduced_size(size: Size, crop_size: Size, least_area: float) -> Size:
    """Returns the (height, width) to which an image is made smaller before it is kept.

    The smallest part that will be cut out of it still has at least as many pixels in each direction as the crop: a
    part of a quarter of the area of an image has half its sides, so the short side is kept twice as long as the
    longer side of the crop. Images are not enlarged.
    """
    wanted = math.ceil(max(crop_size) / math.sqrt(least_area))
    short = min(size)
    if short <= wanted:
        return size
    height, width = (max(wanted, round(side * wanted / short)) for side in size)
    return height, width


def _decode_image(crop_size: Size, least_area: float, options: DecodeOptions, source: Source) -> NDArray[np.uint8]:
    image, (width, height) = decoding.load_reduced_image(
        source,
        lambda size: reduced_size(size, crop_size, least_area),
        max_pixels=options.max_pixels,
        decode_damaged=options.decode_damaged,
    )
    target_height, target_width = reduced_size((height, width), crop_size, least_area)
    if (target_width, target_height) != image.size and (target_width, target_height) != (width, height):
        image = image.resize((target_width, target_height), Image.Resampling.BICUBIC)
    return np.asarray(image)


class ImageStore:
    """Decoded images by the positions of their sources."""

    def __init__(
        self,
        path: Path,
        sources: Sequence[Source],
        decode: Decode,
        places: Sequence[_Place | None],
        failures: dict[int, ImageFailure],
    ) -> None:
        """
        Args:
            places: where the pixels of each image are in the file. None if they are not in it.
        """
        self.failures = failures
        """Why images could not be decoded, by their positions."""
        self._sources = sources
        self._decode = decode
        self._places = places
        # An empty file cannot be mapped.
        self._pixels = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Returns an image, (H, W, 3). Any thread may call it. The array cannot be written to.

        Raises:
            ImageError: its pixels are not in the file, and it cannot be decoded any more.
        """
        place = self._places[index]
        if place is None:
            return self._decode(self._sources[index])
        size = place.height * place.width * 3
        return self._pixels[place.offset : place.offset + size].reshape(place.height, place.width, 3)


class _Place(NamedTuple):
    """Where the pixels of an image are in the file."""

    offset: int
    height: int
    width: int


def open_store(
    path: Path,
    sources: Sequence[Source],
    decode: Decode,
    key: str,
    *,
    on_image: Callable[[], object] = lambda: None,
    stop_event: Event | None = None,
) -> ImageStore | None:
    """Decodes images and keeps them in a file, or opens the file of an earlier run.

    An image that cannot be decoded is in `ImageStore.failures`, with a warning.

    Args:
        path: of the file. Beside it is its index, with the suffix .json.
        key: tells what is in the file: the content of the sources, and how they are decoded. A file with another
            key is replaced.
        on_image: called after each image that has been decoded.
        stop_event: once it is set, no further image is decoded.

    Returns:
        None if `stop_event` was set before all images had been decoded.
    """
    index_path = path.with_suffix(INDEX)
    index = _read_index(index_path, key, path)
    if index is None:
        index_path.unlink(missing_ok=True)
        index = _write_images(path, sources, decode, on_image, stop_event)
        if index is None:
            return None
        with atomic_write(index_path, locked=True) as draft:
            draft.write_text(json.dumps({"key": key, **index}), "utf-8")
    failures = {int(number): ImageFailure(*failure) for number, failure in index["failures"].items()}
    for number, failure in failures.items():
        logger.warning("%s is left out: %s", make_printable(sources[number].name), failure.message)
    places = [None if place is None else _Place(*place) for place in index["places"]]
    return ImageStore(path, sources, decode, places, failures)


def _read_index(index_path: Path, key: str, path: Path) -> dict[str, Any] | None:
    """Returns the index of an earlier run, or None if there is none with this key."""
    try:
        index: dict[str, Any] = json.loads(index_path.read_text("utf-8"))
        return index if index["key"] == key and path.stat().st_size == index["size"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_images(
    path: Path,
    sources: Sequence[Source],
    decode: Decode,
    on_image: Callable[[], object],
    stop_event: Event | None,
) -> dict[str, Any] | None:
    """Decodes all images into the file. Returns its index without the key, or None if it was stopped."""

    def prepare(source: Source, _slot: int) -> NDArray[np.uint8] | pipeline.Completed[Any]:
        try:
            return decode(source)
        except ImageError as error:
            return pipeline.Completed(ImageFailure(error.type, make_printable(describe_error(error))))

    limit = int(shutil.disk_usage(path.parent).free * _SHARE_OF_DISK)
    places: list[_Place | None] = []
    failures: dict[str, tuple[str, str]] = {}
    size = 0
    with path.open("wb") as stream:
        decoded = pipeline.run_pipeline(
            sources,
            prepare,
            lambda batch, _slots: batch,
            batch_size=1,
            workers=default_workers(),
            stop_event=stop_event,
        )
        for number, result in enumerate(decoded):
            place = None
            if isinstance(result, ImageFailure):
                failures[str(number)] = (result.type, result.message)
            elif size + result.nbytes <= limit:
                place = _Place(size, *result.shape[:2])
                size += stream.write(np.ascontiguousarray(result).data)
            places.append(place)
            on_image()
    if len(places) < len(sources):
        return None
    return {"size": size, "places": places, "failures": failures}
