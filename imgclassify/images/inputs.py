"""Turns every kind of image that a caller may pass into an ImageInput with a name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

from imgclassify import sources
from imgclassify.errors import ImageError, UsageError
from imgclassify.images import MAX_PIXELS, decoding
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    EncodedImage: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"
    ImageLike: TypeAlias = (
        "str | os.PathLike[str] | EncodedImage | Image.Image | NDArray[np.uint8] | Source | ImageInput"
    )
    """A path or URL, the bytes of an image file or an open file, a PIL image, an array, or a Source."""


class ImageInput(NamedTuple):
    """One image: a source that is not opened yet, an image in memory, or an error."""

    name: str
    source: Source | None = None
    image: Image.Image | None = None
    """Upright, in mode RGB."""
    error: ImageError | None = None

    def load_image(self, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Returns the image, upright, in mode RGB. Decodes it if it is not in memory.

        Args:
            max_pixels: limit on width × height of an image that is decoded.

        Raises:
            ImageError: the image cannot be decoded.
        """
        if self.error:
            raise self.error
        if self.source:
            return decoding.load_image(self.source, max_pixels=max_pixels)
        assert self.image is not None
        return self.image


_IMAGE_ATTRIBUTES = ("read", "__array__", "__array_interface__")
"""Attributes of files, arrays and PIL images. Each of these is one image, although it can be iterated."""


def is_batch(images: Any) -> bool:
    """Whether `images` is an iterable of images rather than one image."""
    single = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Source | ImageInput)
    single = single or any(hasattr(type(images), attribute) for attribute in _IMAGE_ATTRIBUTES)
    return not single and isinstance(images, Iterable)


def as_input(image: Any, index: int, *, offline: bool) -> ImageInput:
    """Wraps an image so that another thread can decode it.

    Content that its owner may change meanwhile is copied now.

    Args:
        index: the image's position in its batch. It becomes part of the name of an image that has no name.
        offline: never open a socket. A URL then fails when it is opened.

    Raises:
        UsageError: `image` is of a type that cannot be an image.
    """
    if isinstance(image, ImageInput):
        return image
    if isinstance(image, str | os.PathLike):
        return input_from_source(sources.single_source(os.fspath(image), offline=offline))
    if isinstance(image, Source):
        return input_from_source(image)
    if hasattr(type(image), "read"):
        image = image.read()
    if isinstance(image, bytes | bytearray | memoryview):
        return input_from_source(Source(f"bytes:{index}", partial(BytesIO, bytes(image))))
    if not any(hasattr(type(image), attribute) for attribute in _IMAGE_ATTRIBUTES):
        raise UsageError(
            f"a value of type {type(image).__name__} is not an image",
            hint="give a path, bytes, a PIL image, an (H, W, 3) uint8 array, or an iterable of these",
        )
    try:
        rgb = decoding.image_from_memory(image)
    except ImageError as error:
        # Raised when the image is loaded, so that it becomes this image's record and the batch continues.
        return ImageInput(f"image:{index}", error=error)
    return ImageInput(f"image:{index}", image=rgb.copy() if rgb is image else rgb)


def input_from_source(source: Source) -> ImageInput:
    """Wraps a source, which is opened when the image is loaded."""
    return ImageInput(source.name, source)
