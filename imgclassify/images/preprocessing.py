"""RGB image + PreprocessSpec → uint8 crop, (H, W, 3): resize and crop exactly as torchvision and timm do on PIL
images, or nearly so and faster. Scaling to floats and normalising belong to the engines."""

from __future__ import annotations

import math
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
would otherwise become one of 256×25,600,000, in gigabytes."""


def resize_and_crop(
    image: Image.Image, spec: PreprocessSpec, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """The part of an RGB image that the network sees.

    Args:
        image: mode RGB, any size of at least one pixel.
        out: (crop height, crop width, 3) uint8, to be written to, such as a row of a batch.

    Returns:
        `out`, or a new array of its shape, C-contiguous; 0..255, the same bytes as the model's own pipeline has
        before it scales to floats.

    Raises:
        ImageTooLargeError: a strip so long that "nearest" would need gigabytes; no other interpolation does.
    """
    height, width = resized = resized_size((image.height, image.width), spec)
    if height * width > max(LARGE_RESIZE, image.height * image.width) and spec.crop_mode == "center":
        image = _resize_window(image, resized, spec)
    elif (image.width, image.height) != (width, height):
        image = image.resize((width, height), _RESAMPLING[spec.interpolation])
    return _to_array(center_crop(image, spec.crop_size, _fill_color(spec)), out)


def resize_and_crop_fast(
    image: Image.Image,
    whole: tuple[int, int],
    spec: PreprocessSpec,
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """What `crop` makes of a picture, in one pass and from a smaller scale of it: close to it, not the same bits.

    Two passes are needed where the picture does not fill the crop's frame.

    Args:
        image: mode RGB, the picture or a reduced one, as from `images.load_reduced`.
        whole: (width, height) of the picture itself, from which the place of the crop is computed.
        out: as in `crop`.

    Returns:
        As `crop`.
    """
    height, width = resized_size((whole[1], whole[0]), spec)
    crop_height, crop_width = spec.crop_size
    resampling = _RESAMPLING[spec.interpolation]
    extent = _scaled_extent(image, whole)
    if crop_height <= height and crop_width <= width:
        left, right = _kept_range(extent[0], image.width, width, crop_width)
        top, bottom = _kept_range(extent[1], image.height, height, crop_height)
        return _to_array(image.resize((crop_width, crop_height), resampling, (left, top, right, bottom)), out)
    if image.size == whole:
        return resize_and_crop(image, spec, out=out)
    image = image.resize((width, height), resampling, (0, 0, *extent))
    return _to_array(center_crop(image, spec.crop_size, _fill_color(spec)), out)


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
    """`image.resize` to (height, width), of which only the rows or columns along the longer side that a centre crop
    keeps are computed; the same bits.

    Enlarging, Pillow resizes each row first and each column second, rounding to bytes in between (shrinking, newer
    releases may turn that round); and so does this: the longer side here, the other by Pillow itself.
    """
    import numpy as np

    if spec.interpolation == "nearest":
        raise ImageTooLargeError(
            f"{image.width}×{image.height} pixels resized to {resized[1]}×{resized[0]} would need gigabytes"
        )
    height, width = resized
    resampling = _RESAMPLING[spec.interpolation]
    crop_height, crop_width = spec.crop_size
    if height > width:
        kept = min(crop_height, height)
        start, weights = _resample_weights(image.height, height, _crop_start(height, kept), kept, spec)
        rows = image.crop((0, start, image.width, start + weights.shape[1]))
        rows = rows.resize((width, rows.height), resampling)
        return Image.fromarray(_weighted_rows(np.asarray(rows), weights))
    kept = min(crop_width, width)
    start, weights = _resample_weights(image.width, width, _crop_start(width, kept), kept, spec)
    columns = np.asarray(image.crop((start, 0, start + weights.shape[1], image.height)))
    turned = _weighted_rows(columns.transpose(1, 0, 2), weights).transpose(1, 0, 2)
    return Image.fromarray(np.ascontiguousarray(turned)).resize((kept, height), resampling)


_PRECISION_BITS = 32 - 8 - 2
"""Pillow's Resample.c: bits after the point of a weight."""


def _resample_weights(
    size: int, resized: int, first: int, count: int, spec: PreprocessSpec
) -> tuple[int, NDArray[np.int64]]:
    """Pillow's fixed-point weights (Resample.c, precompute_coeffs, normalize_coeffs_8bpc) for `count` pixels from
    `first` on, of a side of `size` pixels resized to `resized`.

    Returns:
        (the first source pixel that any of them needs, weights of (count, source pixels)).
    """
    import numpy as np

    scale = size / resized
    filter_scale = max(scale, 1.0)
    support = _SUPPORTS[spec.interpolation] * filter_scale
    rows: list[tuple[int, list[int]]] = []
    for index in range(first, first + count):
        center = (index + 0.5) * scale
        begin = max(int(center - support + 0.5), 0)
        end = min(int(center + support + 0.5), size)
        reciprocal = 1.0 / filter_scale
        exact = [
            _FILTERS[spec.interpolation]((position - center + 0.5) * reciprocal) for position in range(begin, end)
        ]
        total = 0.0
        for weight in exact:
            total += weight
        fixed = [weight / total * (1 << _PRECISION_BITS) if total else weight for weight in exact]
        rows.append((begin, [int(weight - 0.5) if weight < 0 else int(weight + 0.5) for weight in fixed]))
    start = min(begin for begin, _ in rows)
    stop = max(begin + len(weights) for begin, weights in rows)
    matrix = np.zeros((count, stop - start), np.int64)
    for row, (begin, weights) in enumerate(rows):
        matrix[row, begin - start : begin - start + len(weights)] = weights
    return start, matrix


def _weighted_rows(pixels: NDArray[np.uint8], weights: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(rows, columns, 3) uint8 → (len(weights), columns, 3) uint8, rounded and clipped as Pillow does."""
    import numpy as np

    # In float64, whose 53 bits hold these sums of whole numbers exactly, a product of matrices is quick.
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    sums = (weights.astype(np.float64) @ flat).astype(np.int64)
    rounded = (sums + (1 << (_PRECISION_BITS - 1))) >> _PRECISION_BITS
    return rounded.clip(0, 255).astype(np.uint8).reshape(len(weights), *pixels.shape[1:])


def _bilinear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _bicubic(x: float) -> float:
    x, a = abs(x), -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_FLOAT_054, _FLOAT_046 = 0.5400000214576721, 0.46000000834465027
"""Hamming's 0.54 and 0.46, which Pillow has as C floats."""


def _hamming(x: float) -> float:
    x = abs(x)
    return _sinc(x) * (_FLOAT_054 + _FLOAT_046 * math.cos(x * math.pi)) if x < 1.0 else 0.0


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


_FILTERS = {"box": _box, "bilinear": _bilinear, "hamming": _hamming, "bicubic": _bicubic, "lanczos": _lanczos}
_SUPPORTS = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""Half the width of each filter, in pixels of the smaller of the two sides."""
