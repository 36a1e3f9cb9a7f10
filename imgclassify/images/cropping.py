"""Whatever a caller may hand over as a picture, and the crop of it that a network sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

from imgclassify import sources
from imgclassify.errors import ImageError, ImageTooLargeError, UsageError
from imgclassify.images import decoding, preprocessing
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.images.gpu_decoding import GpuDecoder

    Anything: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Source"

Preprocessor: TypeAlias = "Callable[[ImageInput, NDArray[np.uint8]], tuple[int, int]]"
"""Writes a picture's crop, (H, W, 3) uint8, into the array, and gives the picture's upright (width, height).

Raises ImageError where there is none to be had.
"""

TIME_LIMIT = 30.0
"""Seconds for one picture in a process of its own. The largest that are allowed take half of it."""

DECODE_MODES = ("exact", "fast", "gpu")
"""How a picture becomes a crop: the model's own way to the bit; from a JPEG decoded at a smaller scale; or decoded
on the GPU."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """One picture, under its name: to be opened, in memory already, or known to be none."""

    name: str
    source: Source | None = None
    image: Image.Image | None = None
    """Upright, mode RGB."""
    error: ImageError | None = None

    def load_image(self, *, max_pixels: int = decoding.MAX_PIXELS) -> Image.Image:
        """The picture, upright: mode RGB. Raises ImageError."""
        if self.error:
            raise self.error
        if self.source:
            return decoding.load_image(self.source, max_pixels=max_pixels)
        assert self.image is not None
        return self.image


_ONE_BY_ATTRIBUTE = ("read", "__array__", "__array_interface__")
"""What files, arrays and PIL images have; all of them can be iterated, and are one picture all the same."""


def is_batch(picture: Any) -> bool:
    """Whether it is an iterable of pictures rather than one."""
    one = isinstance(picture, str | os.PathLike | bytes | bytearray | memoryview | Source)
    one = one or any(hasattr(type(picture), attribute) for attribute in _ONE_BY_ATTRIBUTE)
    return not one and isinstance(picture, Iterable)


def as_input(picture: Any, index: int, *, offline: bool) -> ImageInput:
    """A picture to be opened on another thread; what its owner may change meanwhile is copied now.

    Raises:
        UsageError: it is nothing that a picture can be.
    """
    if isinstance(picture, str | os.PathLike):
        return input_from_source(sources.single_source(os.fspath(picture), offline=offline))
    if isinstance(picture, Source):
        return input_from_source(picture)
    if hasattr(type(picture), "read"):
        picture = picture.read()
    if isinstance(picture, bytes | bytearray | memoryview):
        return input_from_source(Source(f"bytes:{index}", partial(BytesIO, bytes(picture))))
    if not any(hasattr(type(picture), attribute) for attribute in _ONE_BY_ATTRIBUTE):
        raise UsageError(
            f"a picture cannot be a {type(picture).__name__}",
            hint="give a path, bytes, a PIL image, an (H, W, 3) uint8 array, or an iterable of these",
        )
    try:
        image = decoding.image_from_memory(picture)
    except ImageError as error:
        return ImageInput(f"image:{index}", error=error)
    return ImageInput(f"image:{index}", image=image.copy() if image is picture else image)


def input_from_source(source: Source) -> ImageInput:
    return ImageInput(source.name, source)


def create_preprocessor(
    decode_mode: str, spec: PreprocessSpec, device: str, *, max_pixels: int = decoding.MAX_PIXELS
) -> Preprocessor:
    """The one of DECODES, for a model's preprocessing.

    Args:
        max_pixels: limit on width × height of what is decoded; on a picture in memory there is none.

    Raises:
        DeviceError: "gpu", and the device is none that can decode.
    """
    if decode_mode == "gpu":
        from imgclassify.images.gpu_decoding import GpuDecoder

        return partial(_preprocess_on_gpu, GpuDecoder(spec, device, max_pixels=max_pixels), spec)
    return partial(_preprocess_fast if decode_mode == "fast" else _preprocess_exact, spec, max_pixels)


def _preprocess_exact(
    spec: PreprocessSpec, max_pixels: int, picture: ImageInput, out: NDArray[np.uint8]
) -> tuple[int, int]:
    image = picture.load_image(max_pixels=max_pixels)
    try:
        preprocessing.resize_and_crop(image, spec, out=out)
    except MemoryError as error:
        raise _too_large(image.size) from error
    return image.size


def _preprocess_fast(
    spec: PreprocessSpec, max_pixels: int, picture: ImageInput, out: NDArray[np.uint8]
) -> tuple[int, int]:
    if picture.source is None:
        image = picture.load_image()
        size = image.size
    else:
        image, size = decoding.load_reduced_image(
            picture.source, lambda whole: preprocessing.resized_size(whole, spec), max_pixels=max_pixels
        )
    try:
        preprocessing.resize_and_crop_fast(image, size, spec, out=out)
    except MemoryError as error:
        raise _too_large(size) from error
    return size


def _preprocess_on_gpu(
    decoder: GpuDecoder, spec: PreprocessSpec, picture: ImageInput, out: NDArray[np.uint8]
) -> tuple[int, int]:
    if picture.source is None:
        return _preprocess_exact(spec, decoding.MAX_PIXELS, picture, out)
    out[...], size = decoder.load_crop(picture.source)
    return size


def _too_large(size: tuple[int, int]) -> ImageTooLargeError:
    return ImageTooLargeError(f"too large for this machine's memory: {size[0]}×{size[1]}")
