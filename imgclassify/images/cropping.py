"""Creates the function that decodes, resizes and crops an image, in one of the three decode modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from imgclassify.errors import ImageError
from imgclassify.images import MAX_PIXELS, decoding, preprocessing
from imgclassify.images.info import ImageInfo
from imgclassify.images.inputs import NotNeededError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.catalog import PreprocessSpec
    from imgclassify.images.gpu_decoding import GpuDecoder
    from imgclassify.images.inputs import ImageInput

Preprocessor: TypeAlias = "Callable[[ImageInput, NDArray[np.uint8]], ImageInfo]"
"""Writes an image's crop, (H, W, 3) uint8, into the array and returns what is known of the image.

The channels of the crop are in the order that the network takes: PreprocessSpec.channel_order.

Raises ImageError if the image cannot be decoded or cropped."""


Outcome: TypeAlias = "ImageInfo | ImageError | NotNeededError"
"""What is known of an image whose crop has been written, or why it has no crop."""

GroupPreprocessor: TypeAlias = "Callable[[Sequence[ImageInput], Sequence[NDArray[np.uint8]]], Iterator[Outcome]]"
"""Writes the crops of images into the arrays, as a Preprocessor does, and yields the outcome of each, in order."""


def preprocess_each(
    preprocess: Preprocessor, images: Sequence[ImageInput], outs: Sequence[NDArray[np.uint8]]
) -> Iterator[Outcome]:
    """A GroupPreprocessor, if a preprocessor is given."""
    for image, out in zip(images, outs, strict=True):
        try:
            yield preprocess(image, out)
        except (ImageError, NotNeededError) as error:
            yield error


def create_preprocessor(
    decode_mode: str,
    spec: PreprocessSpec,
    device: str,
    *,
    max_pixels: int = MAX_PIXELS,
    decode_damaged: bool = False,
) -> Preprocessor:
    """Creates the preprocessor of a model for one of DECODE_MODES.

    Args:
        device: the CUDA device that decodes in the mode "gpu". The other modes ignore it.
        max_pixels: limit on width × height of images that are decoded. PIL images and arrays have no limit.
        decode_damaged: whether to decode what there is of a damaged image, as in `decoding.load_image`.

    Raises:
        DeviceError: the mode is "gpu", and the device cannot decode.
    """
    if decode_mode == "gpu":
        from imgclassify.images.gpu_decoding import GpuDecoder

        decoder = GpuDecoder(spec, device, max_pixels=max_pixels, decode_damaged=decode_damaged)
        return partial(_preprocess_on_gpu, decoder, spec)
    preprocess = _preprocess_fast if decode_mode == "fast" else _preprocess_exact
    return partial(preprocess, spec, max_pixels, decode_damaged)


def _preprocess_exact(
    spec: PreprocessSpec, max_pixels: int, decode_damaged: bool, image_input: ImageInput, out: NDArray[np.uint8]
) -> ImageInfo:
    image = image_input.load_image(max_pixels=max_pixels, decode_damaged=decode_damaged)
    preprocessing.resize_and_crop(image, spec, out=out)
    return ImageInfo.of(image) if image_input.source else ImageInfo(*image.size)


def _preprocess_fast(
    spec: PreprocessSpec, max_pixels: int, decode_damaged: bool, image_input: ImageInput, out: NDArray[np.uint8]
) -> ImageInfo:
    if image_input.source is None:
        image = image_input.load_image()
        info = ImageInfo(*image.size)
    else:
        image, size = decoding.load_reduced_image(
            image_input.source,
            lambda whole: preprocessing.resized_size(whole, spec),
            max_pixels=max_pixels,
            decode_damaged=decode_damaged,
        )
        info = ImageInfo.of(image, size)
    preprocessing.resize_and_crop_fast(image, (info.width, info.height), spec, out=out)
    return info


def _preprocess_on_gpu(
    decoder: GpuDecoder, spec: PreprocessSpec, image_input: ImageInput, out: NDArray[np.uint8]
) -> ImageInfo:
    if image_input.source is None:
        # An image in memory is already decoded. nvJPEG has nothing to do, and the limit does not apply.
        return _preprocess_exact(spec, MAX_PIXELS, False, image_input, out)
    out[...], info = decoder.load_crop(image_input.source)
    return info
