"""Makes small JPEG files of what a network sees of images."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from imgclassify.images import MAX_PIXELS
from imgclassify.images.cropping import create_preprocessor
from imgclassify.images.inputs import input_from_source

if TYPE_CHECKING:
    from imgclassify.catalog import PreprocessSpec
    from imgclassify.sources import Source

_QUALITY = 80
_SMALL = 64
"""The colours of images whose longer side has no more pixels than this are kept at full resolution."""


class Thumbnail(NamedTuple):
    """A small image of a crop."""

    content: bytes
    """A JPEG file without metadata."""
    width: int
    height: int


def make_thumbnail(
    source: Source,
    spec: PreprocessSpec,
    side: int,
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> Thumbnail:
    """Makes a small image of the crop of a source. A crop that is small already is not enlarged.

    Args:
        side: the most pixels of its longer side.
        max_pixels: limit on width × height of the image.
        decode_damaged: as in `decoding.load_image`.

    Raises:
        ImageError: the image cannot be opened or decoded.
    """
    import numpy as np

    # The mode "fast" takes a fraction of the time of large JPEGs, and nobody sees the difference in a thumbnail.
    preprocess = create_preprocessor("fast", spec, "cpu", max_pixels=max_pixels, decode_damaged=decode_damaged)
    crop = np.empty((*spec.crop_size, 3), np.uint8)
    preprocess(input_from_source(source), crop)
    if spec.channel_order == "bgr":
        crop = np.ascontiguousarray(crop[..., ::-1])
    image = Image.fromarray(crop)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True, subsampling=0 if max(image.size) <= _SMALL else 2)
    return Thumbnail(stream.getvalue(), *image.size)
