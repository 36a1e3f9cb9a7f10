"""Turns every kind of image that a caller may pass into an ImageInput with a name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

from imgclassify import sources
from imgclassify.errors import ImageError, NoImagesError, UsageError, name_type, short_repr
from imgclassify.images import MAX_PIXELS, decoding
from imgclassify.sources import Source
from imgclassify.sources.expansion import expand_listed, is_collection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    EncodedImage: TypeAlias = "bytes | bytearray | memoryview | BinaryIO"
    ImageLike: TypeAlias = (
        "str | os.PathLike[str] | EncodedImage | Image.Image | NDArray[np.uint8] | Source | ImageInput"
    )
    """A path or URL, the bytes of an image file or an open file, a PIL image, an array, or a Source."""
    ManyImages: TypeAlias = "Iterable[ImageLike] | str | os.PathLike[str]"
    """An iterable of images, or the name of a folder, an archive, a glob or one image."""

logger = logging.getLogger("imgclassify")


class NotNeededError(Exception):
    """Raised by a subclass of ImageInput: its image need not be decoded, as what the network would say of it is
    known."""


class ImageInput(NamedTuple):
    """One image: a source that is not opened yet, an image in memory, or an error."""

    name: str
    source: Source | None = None
    image: Image.Image | None = None
    """Upright, in mode RGB."""
    error: ImageError | None = None

    def load_image(self, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
        """Returns the image, upright, in mode RGB. Decodes it if it is not in memory.

        Args:
            max_pixels: limit on width × height of an image that is decoded.
            decode_damaged: as in `decoding.load_image`.

        Raises:
            ImageError: the image cannot be decoded.
            NotNeededError: the image is left out of its batch.
        """
        if self.error:
            raise self.error
        if self.source:
            return decoding.load_image(self.source, max_pixels=max_pixels, decode_damaged=decode_damaged)
        assert self.image is not None
        return self.image


_IMAGE_ATTRIBUTES = ("read", "__array__", "__array_interface__")
"""Attributes of files, arrays and PIL images. Each of these is one image, although it can be iterated."""


def is_batch(images: Any) -> bool:
    """Whether `images` is an iterable of images, a folder, an archive or a glob, rather than one image."""
    if isinstance(images, str | os.PathLike):
        return is_collection(os.fspath(images))
    single = isinstance(images, bytes | bytearray | memoryview | Source | ImageInput)
    single = single or any(hasattr(type(images), attribute) for attribute in _IMAGE_ATTRIBUTES)
    return not single and isinstance(images, Iterable)


def as_inputs(images: ManyImages, *, offline: bool) -> Iterator[ImageInput]:
    """Wraps each image of a batch as `as_input` does. Folders and archives are replaced by their images.

    Args:
        images: an iterable, which is read only as far as the result is, or the name of a folder, an archive, a
            glob or one image.
        offline: never open a socket. URLs then fail when they are opened.

    Raises:
        NoImagesError: `images` is the name of a folder, an archive or a glob without an image.
        UsageError: `images` or one of the images is of another type.
    """
    if isinstance(images, str | os.PathLike):
        return map(input_from_source, _expand_name(os.fspath(images), offline=offline))
    try:
        return _wrap_each(iter(images), offline=offline)
    except TypeError as error:
        raise _not_an_image(images) from error


def _expand_name(name: str, *, offline: bool) -> Iterator[Source]:
    notices: list[str] = []
    found = sources.expand([name], notice=notices.append, offline=offline)
    first = next(found, None)
    if first is None:
        message = notices[0] if len(notices) == 1 else f"no image in {name!r}"
        raise NoImagesError(message, hint="check the name; docs/images.md lists the formats that can be opened")
    return chain([first], found)


def _wrap_each(images: Iterator[Any], *, offline: bool) -> Iterator[ImageInput]:
    for index, image in enumerate(images):
        if isinstance(image, Source):
            yield input_from_source(image)
        elif isinstance(image, str | os.PathLike):
            found = expand_listed(os.fspath(image), notice=logger.warning, offline=offline)
            yield from map(input_from_source, found)
        else:
            yield as_input(image, index, offline=offline)


def as_input(image: Any, index: int | None = None, *, offline: bool) -> ImageInput:
    """Wraps an image so that another thread can decode it.

    Content that its owner may change meanwhile is copied now.

    Args:
        index: the image's position in its batch. It becomes part of the name of an image that has no name. None
            if there is no batch.
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
        return input_from_source(Source(f"bytes:{index or 0}", partial(BytesIO, bytes(image))))
    name = f"image:{index or 0}"
    if not any(hasattr(type(image), attribute) for attribute in _IMAGE_ATTRIBUTES):
        raise _not_an_image(image, index)
    try:
        rgb = decoding.image_from_memory(image)
    except ImageError as error:
        # Raised when the image is loaded, so that it becomes this image's record and the batch continues.
        return ImageInput(name, error=error)
    return ImageInput(name, image=rgb.copy() if rgb is image else rgb)


def _not_an_image(value: object, index: int | None = None) -> UsageError:
    argument = "images" if index is None else f"images[{index}]"
    shown = "" if value is None else f": {short_repr(value)}"
    kinds = "a path, bytes, a PIL image or an (H, W, 3) uint8 array"
    return UsageError(
        f"{argument} is {name_type(value)}{shown}",
        hint=f"give {kinds}" if index is not None else f"give {kinds}, or an iterable of these",
    )


def input_from_source(source: Source) -> ImageInput:
    """Wraps a source, which is opened when the image is loaded."""
    return ImageInput(source.name, source)
