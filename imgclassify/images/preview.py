"""Shows what a network sees of an image: the crop, and where it lies in the image."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.catalog import PreprocessSpec, Size
from imgclassify.images import MAX_PIXELS
from imgclassify.images.decoding import read_orientation
from imgclassify.images.preprocessing import crop_box, is_approximate, resized_size
from imgclassify.sources import Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.images.cropping import Preprocessor
    from imgclassify.images.inputs import ImageInput

__all__ = ["ImagePreview"]


class ImagePreview(NamedTuple):
    """The crop of an image, and how it was made."""

    source: str
    """The image's name."""
    width: int
    """Pixels of the upright image."""
    height: int
    orientation: int | None
    """The EXIF orientation that was applied, 1 to 8. 1 means that the image was upright. None for an image that
    was in memory."""
    resized: Size
    """(height, width) of the whole image after the resize."""
    box: tuple[float, float, float, float]
    """Where the crop lies in the upright image: (x0, y0, x1, y1), in its pixels, from its upper left corner. Where
    the crop is padded, the box reaches beyond the image."""
    approximate: bool
    """Whether the image is such a long strip that the crop differs from that of the model's own pipeline."""
    crop: NDArray[np.uint8]
    """(H, W, 3), 0..255, with the channels in the order of the network: bit for bit what the engine gets."""
    damaged: bool = False
    """Whether a part of the image is missing."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the crop, as plain values for JSON."""
        return {
            "source": self.source,
            "width": self.width,
            "height": self.height,
            "orientation": self.orientation,
            "resized": list(self.resized),
            "box": list(self.box),
            "approximate": self.approximate,
            **({"damaged": True} if self.damaged else {}),
        }


def preview_image(
    image: ImageInput,
    spec: PreprocessSpec,
    preprocess: Preprocessor,
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> ImagePreview:
    """Makes the crop of an image.

    Args:
        preprocess: of the same spec.
        max_pixels: limit on width × height of an image that is decoded.
        decode_damaged: as in `decoding.load_image`, and as `preprocess` was created with.

    Raises:
        ImageError: the image cannot be opened or decoded.
    """
    import numpy as np

    if image.source and image.source.path is None:  # a download or a pipe is read only once
        image = image._replace(source=buffer_source(image.source))
    orientation = None
    crop = np.empty((*spec.crop_size, 3), np.uint8)
    info = preprocess(image, crop)
    width, height = info.width, info.height
    size = (height, width)
    if image.source:
        orientation = read_orientation(image.source, max_pixels=max_pixels, decode_damaged=decode_damaged)
    return ImagePreview(
        source=image.name,
        width=width,
        height=height,
        orientation=orientation,
        resized=resized_size(size, spec),
        box=crop_box(size, spec),
        approximate=is_approximate(size, spec),
        crop=crop,
        damaged=info.damaged,
    )


def buffer_source(source: Source) -> Source:
    """Reads a source into memory.

    Raises:
        ImageError: it cannot be opened.
    """
    with source.open() as stream:
        return Source(source.name, partial(BytesIO, stream.read()), in_memory=True)
