"""RGB image + PreprocessSpec → uint8 crop, (H, W, 3): resize and centre crop.

The bytes are those that torchvision and timm compute from PIL images; the fast way gives nearly these. Scaling to
floats and normalising belong to the engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from imgclassify.catalog import PreprocessSpec, Size
from imgclassify.errors import ImageTooLargeError
from imgclassify.images.decoding import JPEG_SCALES

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
"""Pixels after enlarging beyond which only the part that the crop keeps is computed. A strip of 1×100,000 pixels
would otherwise become one of 256×25,600,000, which takes gigabytes."""

_WIDEST_FILTER = 3
"""Pixels to each side that a resampling filter reaches: Lanczos's."""


def resize_and_crop(
    image: Image.Image, spec: PreprocessSpec, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The part of an RGB image that the network sees.

    Args:
        image: mode RGB, any size of at least one pixel.
        out: (crop height, crop width, 3) uint8, to be written to, such as a row of a batch.

    Returns:
        `out`, or a new array of its shape, C-contiguous, 0..255. The bytes are those that the model's own pipeline
        has before it scales to floats, except where `is_approximate` says otherwise.

    Raises:
        ImageTooLargeError: this machine has not enough memory.
    """
    size = (image.height, image.width)
    height, width = resized_size(size, spec)
    with _memory_errors(image.size):
        if is_approximate(size, spec):
            image = _resize_window(image, (height, width), spec)
        elif (image.width, image.height) != (width, height):
            image = image.resize((width, height), _RESAMPLING[spec.interpolation])
        return _to_array(center_crop(image, spec.crop_size, _fill_color(spec)), out)


def is_approximate(size: Size, spec: PreprocessSpec) -> bool:
    """Whether an image of (height, width) is a strip so long that only the crop's part of it is resized. Its values
    then differ by up to 2 of 255 from those of the whole resize, which no machine could hold."""
    height, width = resized_size(size, spec)
    return height * width > max(LARGE_RESIZE, size[0] * size[1]) and spec.crop_mode == "center"


def resize_and_crop_fast(
    image: Image.Image,
    whole: tuple[int, int],
    spec: PreprocessSpec,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """What `resize_and_crop` computes, in one pass and from a smaller scale of the image: close, not the same
    bytes.

    It takes two passes where the image does not fill the crop.

    Args:
        image: mode RGB, the image or a reduced one, as from `decoding.load_reduced_image`.
        whole: (width, height) of the image itself, from which the place of the crop is computed.
        out: as in `resize_and_crop`.

    Returns:
        As `resize_and_crop`.

    Raises:
        ImageTooLargeError: this machine has not enough memory.
    """
    height, width = resized_size((whole[1], whole[0]), spec)
    crop_height, crop_width = spec.crop_size
    resampling = _RESAMPLING[spec.interpolation]
    extent = _scaled_extent(image, whole)
    with _memory_errors(whole):
        if crop_height <= height and crop_width <= width:
            left, right = _kept_range(extent[0], image.width, width, crop_width)
            top, bottom = _kept_range(extent[1], image.height, height, crop_height)
            return _to_array(image.resize((crop_width, crop_height), resampling, (left, top, right, bottom)), out)
        if image.size == whole:
            return resize_and_crop(image, spec, out=out)
        image = image.resize((width, height), resampling, (0, 0, *extent))
        return _to_array(center_crop(image, spec.crop_size, _fill_color(spec)), out)


@contextmanager
def _memory_errors(size: tuple[int, int]) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ImageTooLargeError(f"too large for this machine's memory: {size[0]}×{size[1]}") from error


def _scaled_extent(image: Image.Image, whole: tuple[int, int]) -> tuple[float, float]:
    """(width, height) that the whole picture has among the pixels of a reduced one, whose last column and row may
    reach beyond it."""
    width, height = whole
    for scale in (1, *JPEG_SCALES):
        if image.size == (-(-width // scale), -(-height // scale)):
            return width / scale, height / scale
    return image.size


def _kept_range(extent: float, side: int, resized: int, crop: int) -> tuple[float, float]:
    """The part of a side, in its own pixels, that the crop keeps of it after it is resized."""
    start = _crop_start(resized, crop)
    begin, end = start * extent / resized, (start + crop) * extent / resized
    return begin, min(end, side)


def _fill_color(spec: PreprocessSpec) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in spec.mean) if spec.crop_mode == "border" else (0, 0, 0)


def _to_array(image: Image.Image, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    import numpy as np

    if out is None:
        return np.array(image)
    out[...] = np.asarray(image)
    return out


def resized_size(size: Size, spec: PreprocessSpec) -> Size:
    """(height, width) after the resize of an image of (height, width)."""
    height, width = size
    target = spec.resize_size
    if spec.crop_mode == "squash":
        return (target, target) if isinstance(target, int) else target
    if isinstance(target, int) and spec.crop_mode == "center":
        # torchvision.transforms.functional._compute_resized_output_size: truncation, in this order.
        short, long = sorted(size)
        long = int(target * long / short)
        return (target, long) if height <= width else (long, target)
    # timm.data.transforms.ResizeKeepRatio, with `longest` 1 for "border" and 0 otherwise.
    target_height, target_width = (target, target) if isinstance(target, int) else target
    ratios = (height / target_height, width / target_width)
    ratio = max(ratios) if spec.crop_mode == "border" else min(ratios)
    # timm fails where a strip rounds to no pixels at all.
    return (max(1, round(height / ratio)), max(1, round(width / ratio)))


def center_crop(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """torchvision.transforms.functional.center_crop: pads with `fill` where the image is the smaller one, and
    rounds half to even as Python does."""
    crop_height, crop_width = size
    if crop_width > image.width or crop_height > image.height:
        over_width, over_height = max(crop_width - image.width, 0), max(crop_height - image.height, 0)
        border = (over_width // 2, over_height // 2, (over_width + 1) // 2, (over_height + 1) // 2)
        image = ImageOps.expand(image, border, fill)
    top, left = _crop_start(image.height, crop_height), _crop_start(image.width, crop_width)
    return image.crop((left, top, left + crop_width, top + crop_height))


def _crop_start(side: int, crop: int) -> int:
    """The first pixel of a centre crop; half to even, as Python rounds."""
    return round((side - crop) / 2.0)


def _resize_window(image: Image.Image, resized: Size, spec: PreprocessSpec) -> Image.Image:
    """The part of `image.resize` to (height, width) that a centre crop keeps.

    The image is first cut to the pixels that this part depends on. Pillow has a box's corners as 32-bit floats,
    which are exact enough only near 0.
    """
    sides = []
    for side, target, crop in zip(image.size, reversed(resized), reversed(spec.crop_size), strict=True):
        kept, scale = min(crop, target), side / target
        begin = _crop_start(target, kept) * scale
        margin = math.ceil(_WIDEST_FILTER * max(scale, 1))
        first, last = max(0, int(begin) - margin), min(side, int(begin + kept * scale) + margin + 1)
        sides.append((kept, first, last, begin - first, min(begin + kept * scale, last) - first))
    (width, x0, x1, left, right), (height, y0, y1, top, bottom) = sides
    # Enlarging, Pillow resizes the width first, and rounds to bytes in between. Of a part it might do otherwise.
    resampling = _RESAMPLING[spec.interpolation]
    part = image.crop((x0, y0, x1, y1))
    part = part.resize((width, part.height), resampling, (left, 0, right, part.height))
    return part.resize((width, height), resampling, (0, top, width, bottom))
