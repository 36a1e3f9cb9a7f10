"""Resizes and crops an RGB image as a PreprocessSpec says: to a uint8 crop, (H, W, 3).

The bytes are those that torchvision, timm and transformers compute from PIL images. `resize_and_crop_fast` gives
nearly the same. The channels of a crop are in the order that the network takes. The engines scale the crop to
floats and normalise it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from imgclassify.catalog import PreprocessSpec, Size
from imgclassify.errors import ImageTooLargeError
from imgclassify.images.opened_image import JPEG_SCALES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

LARGE_RESIZE = 2**24
"""If an image would have more pixels than this after enlarging, only the part that the crop keeps is computed.
Otherwise a strip of 1×100,000 pixels would become one of 256×25,600,000, which takes gigabytes."""

_WIDEST_FILTER = 3
"""How many pixels the widest resampling filter, Lanczos, reaches to each side."""


def resize_and_crop(
    image: Image.Image, spec: PreprocessSpec, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Returns the part of an RGB image that the network sees.

    Args:
        image: mode RGB, any size of at least one pixel.
        out: the array to write to, (crop height, crop width, 3) uint8, such as a row of a batch. None makes a
            new one.

    Returns:
        `out`, or a new array of its shape, C-contiguous, 0..255, with the channels in `spec.channel_order`. The
        bytes are those of the model's own pipeline before it scales to floats, unless `is_approximate` returns
        True.

    Raises:
        ImageTooLargeError: this machine does not have enough memory.
    """
    size = (image.height, image.width)
    height, width = resized_size(size, spec)
    with _memory_errors(image.size):
        image = _convert_mode(image, spec)
        if is_approximate(size, spec):
            image = _resize_window(image, (height, width), spec)
        elif (image.width, image.height) != (width, height):
            image = image.resize((width, height), _RESAMPLING[spec.interpolation])
        return _to_array(center_crop(image, spec, _fill_color(spec)), spec, out)


def is_approximate(size: Size, spec: PreprocessSpec) -> bool:
    """Whether an image of (height, width) is such a long strip that only the crop's part of it is resized.

    The values then differ by up to 2 of 255 from those of resizing the whole image, which no machine could
    hold.
    """
    height, width = resized_size(size, spec)
    return height * width > max(LARGE_RESIZE, size[0] * size[1]) and spec.crop_mode == "center"


def resize_and_crop_fast(
    image: Image.Image,
    full_size: tuple[int, int],
    spec: PreprocessSpec,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Computes nearly the same crop as `resize_and_crop`, in one pass and from a full or a reduced image.

    The bytes are close, but not the same. If the resized image does not fill the crop, two passes are made.

    Args:
        image: mode RGB. The full image or a reduced one, as from `decoding.load_reduced_image`.
        full_size: (width, height) of the full image, from which the position of the crop is computed.
        out: as in `resize_and_crop`.

    Returns:
        As in `resize_and_crop`.

    Raises:
        ImageTooLargeError: this machine does not have enough memory.
    """
    height, width = resized_size((full_size[1], full_size[0]), spec)
    crop_height, crop_width = spec.crop_size
    resampling = _RESAMPLING[spec.interpolation]
    extent = _scaled_extent(image, full_size)
    fills_crop = crop_height <= height and crop_width <= width
    if not fills_crop and image.size == full_size:
        return resize_and_crop(image, spec, out=out)
    with _memory_errors(full_size):
        image = _convert_mode(image, spec)
        if fills_crop:
            left, right = _kept_range(extent[0], image.width, width, crop_width, spec)
            top, bottom = _kept_range(extent[1], image.height, height, crop_height, spec)
            image = image.resize((crop_width, crop_height), resampling, (left, top, right, bottom))
        else:
            image = image.resize((width, height), resampling, (0, 0, *extent))
            image = center_crop(image, spec, _fill_color(spec))
        return _to_array(image, spec, out)


@contextmanager
def _memory_errors(size: tuple[int, int]) -> Iterator[None]:
    """Turns a MemoryError into an ImageTooLargeError."""
    try:
        yield
    except MemoryError as error:
        message = f"too large for this machine's memory: {size[0]}×{size[1]}"
        raise ImageTooLargeError(message, out_of_memory=True) from error


def _scaled_extent(image: Image.Image, full_size: tuple[int, int]) -> tuple[float, float]:
    """Returns the (width, height) of the full image, measured in pixels of a reduced one.

    The size of a reduced image is rounded up, so its last column and row may reach beyond the full image.
    """
    width, height = full_size
    for scale in (1, *JPEG_SCALES):
        if image.size == (-(-width // scale), -(-height // scale)):
            return width / scale, height / scale
    return image.size


def _kept_range(extent: float, side: int, resized: int, crop: int, spec: PreprocessSpec) -> tuple[float, float]:
    """Returns the range of a side, in its own pixels, that the crop keeps after the resize."""
    start = crop_start(resized, crop, spec)
    begin, end = start * extent / resized, (start + crop) * extent / resized
    return begin, min(end, side)  # rounding may lead beyond the side, which Pillow rejects


def _convert_mode(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Converts an RGB image to grey, mode L, if the network takes grey.

    Grey that was decoded to RGB becomes the same grey again: Pillow's weights add up to 1.
    """
    return image.convert("L") if spec.channel_order == "grey" else image


def _fill_color(spec: PreprocessSpec) -> int | tuple[int, ...]:
    """Returns the color of the padding, for an image of mode L if the network takes grey, else of mode RGB."""
    red, green, blue = (
        (0, 0, 0) if spec.crop_mode != "border" else tuple(round(255 * channel) for channel in spec.mean)
    )
    if spec.channel_order == "grey":
        return red
    return (blue, green, red) if spec.channel_order == "bgr" else (red, green, blue)


def _to_array(image: Image.Image, spec: PreprocessSpec, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Copies an image of mode L or RGB to an array of three channels, in the order of the network."""
    import numpy as np

    pixels = np.asarray(image)
    if spec.channel_order == "grey":
        pixels = pixels[..., None]
    elif spec.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    if out is None:
        out = np.empty((*pixels.shape[:2], 3), np.uint8)
    out[...] = pixels
    return out


def resized_size(size: Size, spec: PreprocessSpec) -> Size:
    """Returns the (height, width) to which an image of (height, width) is resized."""
    height, width = size
    target = spec.resize_size
    if spec.crop_mode == "squash":
        return (target, target) if isinstance(target, int) else target
    if isinstance(target, int) and spec.crop_mode == "center":
        # As torchvision.transforms.functional._compute_resized_output_size: truncation, and this order of
        # operations.
        short, long = sorted(size)
        long = int(target * long / short)
        return (target, long) if height <= width else (long, target)
    # As timm.data.transforms.ResizeKeepRatio, with `longest` 1 for "border" and 0 otherwise.
    target_height, target_width = (target, target) if isinstance(target, int) else target
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if spec.crop_mode == "border" else min(ratios)
    # timm fails if a side of a strip is rounded to 0 pixels.
    return (max(1, round(height / ratio)), max(1, round(width / ratio)))


def center_crop(image: Image.Image, spec: PreprocessSpec, fill: int | tuple[int, ...]) -> Image.Image:
    """Cuts out the centre. Pads with `fill` if the image is smaller than the crop."""
    crop_height, crop_width = spec.crop_size
    top, left = crop_start(image.height, crop_height, spec), crop_start(image.width, crop_width, spec)
    if crop_width > image.width or crop_height > image.height:
        over_width, over_height = max(crop_width - image.width, 0), max(crop_height - image.height, 0)
        before_x, before_y = max(-left, 0), max(-top, 0)
        image = ImageOps.expand(image, (before_x, before_y, over_width - before_x, over_height - before_y), fill)
        top, left = max(top, 0), max(left, 0)
    return image.crop((left, top, left + crop_width, top + crop_height))


def crop_box(size: Size, spec: PreprocessSpec) -> tuple[float, float, float, float]:
    """Returns where the crop of an image of (height, width) lies in it: (x0, y0, x1, y1), in its pixels.

    The corner of the image is (0, 0). Where the crop is padded, the box reaches beyond the image.
    """
    (top, bottom), (left, right) = (
        (start * side / resized, (start + crop) * side / resized)
        for side, resized, crop in zip(size, resized_size(size, spec), spec.crop_size, strict=True)
        for start in [crop_start(resized, crop, spec)]
    )
    return left, top, right, bottom


def crop_start(side: int, crop: int, spec: PreprocessSpec) -> int:
    """Returns the first pixel of a centre crop of a side. It is negative where the side is padded."""
    if spec.crop_rounding == "down":  # transformers.image_transforms.center_crop
        return (side - crop) // 2
    # torchvision.transforms.functional.center_crop. Python rounds halves to even.
    return round((side - crop) / 2.0) if side >= crop else -((crop - side) // 2)


def _resize_window(image: Image.Image, resized: Size, spec: PreprocessSpec) -> Image.Image:
    """Computes only the part of `image.resize` to `resized` (height, width) that a centre crop keeps.

    The image is first cut to the pixels that this part depends on. Pillow stores a box's corners as 32-bit
    floats, which are exact enough only near 0.
    """
    sides = []
    for side, target, crop in zip(image.size, reversed(resized), reversed(spec.crop_size), strict=True):
        kept, scale = min(crop, target), side / target
        begin = crop_start(target, kept, spec) * scale
        margin = math.ceil(_WIDEST_FILTER * max(scale, 1))
        first, last = max(0, int(begin) - margin), min(side, int(begin + kept * scale) + margin + 1)
        sides.append((kept, first, last, begin - first, min(begin + kept * scale, last) - first))
    (width, x0, x1, left, right), (height, y0, y1, top, bottom) = sides
    # When it enlarges, Pillow resizes the width first and rounds to bytes in between. For a part of an image it
    # might use the other order, so the two passes are made one by one.
    resampling = _RESAMPLING[spec.interpolation]
    part = image.crop((x0, y0, x1, y1))
    part = part.resize((width, part.height), resampling, (left, 0, right, part.height))
    return part.resize((width, height), resampling, (0, top, width, bottom))
