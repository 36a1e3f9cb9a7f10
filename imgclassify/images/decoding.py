"""Decodes an image to RGB, upright, within limits that protect against hostile files.

Nothing is resized here, except that a JPEG can be decoded at a smaller scale on request. Every function may be
called from many threads at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from PIL import Image

from imgclassify.errors import CorruptImageError, UnsupportedImageError, describe_error, name_type
from imgclassify.images import MAX_PIXELS
from imgclassify.images.decoder_errors import translate_errors
from imgclassify.images.info import NOTES
from imgclassify.images.opened_image import OpenedImage, use_image
from imgclassify.images.rgb_conversion import TRANSPOSITIONS, to_rgb
from imgclassify.sources import Source

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from imgclassify.catalog import Size

logger = logging.getLogger("imgclassify")


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
    """Decodes the image of a source: the frame that it names, or the first that is not blank.

    Args:
        max_pixels: limit on width × height.
        decode_damaged: whether to decode what there is of a damaged image (docs/images.md). If a part of it is
            missing, its `info["damaged"]` is True. A frame that the source names is never decoded in part.

    Returns:
        The image, upright, in mode RGB, with 8 bits per channel and at least 1×1 pixels.

    Raises:
        ImageError: one of its subclasses. No other exception is raised.
    """
    if source.frame is not None and source.frame.reader is not None:
        image = source.frame.reader.read(source.frame.name, max_pixels)
    elif source.frame is not None:
        name = source.frame.name
        with source.open() as stream:
            image = use_image(stream, max_pixels, False, lambda opened: opened.decode(opened.find(name)))
    else:
        with source.open() as stream:
            image = decode_image(stream, max_pixels=max_pixels, decode_damaged=decode_damaged)
    _report_notes(source, image)
    return cast(Image.Image, image)


def decode_image(stream: BinaryIO, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> Image.Image:
    """Decodes the image of a stream, as `load_image` does.

    Args:
        stream: seekable and at its start. It stays open.
        max_pixels: limit on width × height.
        decode_damaged: as in `load_image`.

    Raises:
        ImageEmptyError: the stream contains no bytes.
        NotAnImageError: the stream does not begin like any of IMAGE_FORMATS.
        TruncatedImageError: the stream begins like one of them, but ends before its format says that it does.
        CorruptImageError: the stream begins like one of them, but cannot be decoded to its end.
        ImageTooLargeError: the image has more than `max_pixels` pixels, which is found before any pixel is
            decoded, or it exceeds another limit (docs/images.md).
        ImageUnreadableError: the disk failed.
        UnsupportedImageError: a package for the format is missing, or its colours cannot be converted to RGB.
    """
    return use_image(stream, max_pixels, decode_damaged, OpenedImage.decode_first)


def load_reduced_image(
    source: Source,
    resized_size: Callable[[Size], Size],
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes the first image of a source, and a JPEG at the smallest scale that is large enough.

    Other formats are decoded as by `load_image`.

    Args:
        resized_size: takes the upright size of the full image and returns the size to which it will be resized,
            both (height, width).
        max_pixels: limit on width × height of the full image.
        decode_damaged: as in `load_image`.

    Returns:
        (image, (width, height) of the full image, upright). The image is the full one, or it is reduced to a
        half, a quarter or an eighth of its size, rounded up. Both sides of a reduced image are at least
        REDUCED_MARGIN times the sides that `resized_size` returns.

    Raises:
        ImageError: one of its subclasses. No other exception is raised.
    """
    if source.frame is not None:  # a JPEG has only one
        image = load_image(source, max_pixels=max_pixels)
        return image, image.size
    with source.open() as stream:
        image, full_size = decode_reduced_image(
            stream, resized_size, max_pixels=max_pixels, decode_damaged=decode_damaged
        )
    _report_notes(source, image)
    return image, full_size


def _report_notes(source: Source, image: Image.Image) -> None:
    """Says what was done with an image's samples that is not the same for all. Shown with --verbose."""
    for key in NOTES:
        if note := image.info.get(key):
            logger.info("%s: %s", source.name, note)
    if left_out := image.info.get("left_out"):
        logger.info("%s: not read, because it is damaged, too large or not needed: %s", source.name, left_out)


def decode_reduced_image(
    stream: BinaryIO,
    resized_size: Callable[[Size], Size],
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> tuple[Image.Image, tuple[int, int]]:
    """Decodes the first image of a stream, as `load_reduced_image` does.

    Args:
        stream: seekable and at its start. It stays open.
        resized_size: as in `load_reduced_image`.
        max_pixels: limit on width × height of the full image.
        decode_damaged: as in `load_image`.

    Raises:
        ImageError: as in `decode_image`.
    """
    return use_image(stream, max_pixels, decode_damaged, lambda opened: opened.decode_reduced(resized_size))


def read_orientation(source: Source, *, max_pixels: int = MAX_PIXELS, decode_damaged: bool = False) -> int:
    """Returns the EXIF orientation that the decoding functions apply, 1 to 8. 1 means upright.

    The image is decoded, because some formats have their EXIF data at the end.

    Raises:
        ImageError: as in `decode_image`.
    """

    def find(opened: OpenedImage) -> Image.Transpose | None:
        return opened.read_transposition(None if source.frame is None else opened.find(source.frame.name))

    with source.open() as stream:
        transposition = use_image(stream, max_pixels, decode_damaged, find)
    return next((number for number, each in TRANSPOSITIONS.items() if each == transposition), 1)


def image_from_memory(image_like: Image.Image | ArrayLike) -> Image.Image:
    """Converts a PIL image or an array to an image such as `load_image` returns.

    Args:
        image_like: a PIL image, or a uint8 array of shape (H, W, 3) in RGB or (H, W) in grey.

    Raises:
        UnsupportedImageError: the array has another shape or dtype, or Pillow cannot convert the colours.
        ImageError: the PIL image is not loaded yet and cannot be decoded, as in `decode_image`.
    """
    if isinstance(image_like, Image.Image):
        with translate_errors(image_like.format or "image"):
            if not image_like.width * image_like.height:
                raise CorruptImageError(f"an image of {image_like.width}×{image_like.height} has no pixels")
            return to_rgb(image_like)
    import numpy as np

    try:
        array = np.asarray(image_like).copy()  # a copy, because the image may share the array's memory
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedImageError(
            f"{name_type(image_like)} cannot be converted to an array: {describe_error(error)}"
        ) from error
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (3,)) or array.ndim < 2 or not array.size:
        raise UnsupportedImageError(
            f"an array must be (H, W, 3) or (H, W) uint8, but this one is {array.shape} {array.dtype}"
        )
    return to_rgb(Image.fromarray(array))
