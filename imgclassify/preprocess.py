"""RGB image + PreprocessSpec → uint8 crop, (H, W, 3): resize and crop exactly as torchvision and timm do on PIL
images. Scaling to floats and normalising belong to the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from imgclassify.catalog import PreprocessSpec, Size

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


def crop(image: Image.Image, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """The part of an RGB image that the network sees.

    Args:
        image: mode RGB, any size of at least one pixel.

    Returns:
        (crop height, crop width, 3) uint8, 0..255, C-contiguous; the same bytes as the model's own pipeline
        has before it scales to floats.
    """
    import numpy as np

    height, width = resized_size((image.height, image.width), spec)
    if (image.width, image.height) != (width, height):
        image = image.resize((width, height), _RESAMPLING[spec.interpolation])
    fill = tuple(round(255 * channel) for channel in spec.mean) if spec.crop_mode == "border" else (0, 0, 0)
    return np.array(center_crop(image, spec.crop_size, fill))


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
    return (round(height / ratio), round(width / ratio))


def center_crop(image: Image.Image, size: Size, fill: tuple[int, ...]) -> Image.Image:
    """torchvision.transforms.functional.center_crop: pads with `fill` where the image is the smaller one, and
    rounds half to even as Python does."""
    crop_height, crop_width = size
    if crop_width > image.width or crop_height > image.height:
        over_width, over_height = max(crop_width - image.width, 0), max(crop_height - image.height, 0)
        border = (over_width // 2, over_height // 2, (over_width + 1) // 2, (over_height + 1) // 2)
        image = ImageOps.expand(image, border, fill)
    top = round((image.height - crop_height) / 2.0)
    left = round((image.width - crop_width) / 2.0)
    return image.crop((left, top, left + crop_width, top + crop_height))
