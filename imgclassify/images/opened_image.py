"""Opens an image file and decodes its frames. What is damaged beside the pixels is left out."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from copy import copy
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from PIL import Image

from imgclassify.errors import (
    CorruptImageError,
    ImageEmptyError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    TruncatedImageError,
    UnsupportedImageError,
)
from imgclassify.images.decoder_errors import silence_decoders, translate_errors
from imgclassify.images.decoders import find_reader, identify_format
from imgclassify.images.frames import MAX_BLANK_FRAMES, Frames, FrameSelection, PillowFrames, check_pixels, is_blank
from imgclassify.images.info import NOTES, Note
from imgclassify.images.rgb_conversion import GREY_MODES, SWAPS_AXES, convert_mode, exif_transposition, to_rgb
from imgclassify.sources import MAX_BYTES

if TYPE_CHECKING:
    from imgclassify.catalog import Size

T = TypeVar("T")

MAX_SCANS = 100
"""Limit on the scans of a JPEG. Encoders write ten. Each scan takes as long to decode as the whole image, but
needs only a few bytes."""

JPEG_SCALES = (8, 4, 2)
"""Divisors of the size at which libjpeg can decode a JPEG. A smaller scale takes less work, because
frequencies are left out."""

REDUCED_MARGIN = 2
"""The smallest size of a reduced image, as a multiple of the size to which it is resized. With 2, the resize
still averages over several pixels, as it does with the full image."""

_MAX_BLANK_PIXELS = 2**29
"""How many pixels of blank frames are decoded before the search for a frame that is not blank ends."""

_START_OF_SCAN = b"\xff\xda"

FAILURES = (CorruptImageError, TruncatedImageError, UnsupportedImageError, NotAnImageError, ImageEmptyError)
"""Errors of a file that was made of a damaged one. The error of the damaged one is reported instead."""


def use_image(stream: BinaryIO, max_pixels: int | None, decode_damaged: bool, use: Callable[[OpenedImage], T]) -> T:
    """Opens an image and returns what a function returns for it.

    If the file is damaged, the function is called again, with the image of a file without what is damaged beside
    the pixels, or, if `decode_damaged` is True, with what there is of the pixels.

    Args:
        max_pixels, decode_damaged: as in `repairs`.
        use: what it does not do with the image, such as decoding it, shows no damage.
    """
    try:
        return use(OpenedImage(stream, max_pixels))
    except (CorruptImageError, TruncatedImageError) as error:
        _release_frames(error)
        for open_repaired in repairs(stream, max_pixels, decode_damaged=decode_damaged):
            with suppress(*FAILURES):
                return use(open_repaired())
        raise


def _release_frames(error: BaseException | None) -> None:
    """Releases what was held when an exception was raised, such as the pixels decoded by then."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def repairs(
    stream: BinaryIO, max_pixels: int | None, *, decode_damaged: bool
) -> Iterator[Callable[[], OpenedImage]]:
    """Yields functions that open what may be decoded in place of a damaged image. They may raise FAILURES.

    Args:
        max_pixels: as in `OpenedImage`.
        decode_damaged: must be False if `max_pixels` is None.
    """
    # Not at the top of the file, because a whole image needs neither.
    from imgclassify.images.damaged import find_repairs
    from imgclassify.images.notes import leave_out_notes

    stream.seek(0)
    format_name = identify_format(stream).format
    facts: dict[str, Any] = {}
    if cleaned := leave_out_notes(stream, format_name):
        stream, facts = cleaned.stream, {"left_out": cleaned.left_out}
        stream.seek(0)
        yield partial(OpenedImage, stream, max_pixels, facts=facts, missing=cleaned.missing)
    for repaired in find_repairs(stream, format_name, max_pixels or 0) if decode_damaged else ():
        repaired.stream.seek(0)
        yield partial(
            OpenedImage, repaired.stream, max_pixels, facts={**facts, "damaged": True}, fill=repaired.fill
        )


class OpenedImage:
    """An image file of which only the header has been read, if Pillow knows its layout.

    Any exception of a decoder becomes an ImageError. Only one thread at a time may use it.
    """

    def __init__(
        self,
        stream: BinaryIO,
        max_pixels: int | None,
        *,
        facts: Mapping[str, Any] = MappingProxyType({}),
        missing: ImageError | None = None,
        fill: Callable[[Image.Image, Callable[[Image.Image], Image.Image]], Image.Image] | None = None,
    ) -> None:
        """Opens the file; see `decode_image`.

        Args:
            stream: must stay open as long as this object is used.
            max_pixels: as in `decode_image`. None if nothing will be decoded, only `frames` be counted.
            facts: what the `info` of the decoded image says besides what is found.
            missing: the error of frames that have been left out of the file.
            fill: damaged.Repaired.fill, which is applied to the first frame.
        """
        silence_decoders()
        self._stream, self._max_pixels = stream, max_pixels or 0
        self._facts, self._fill = facts, fill
        decoder = identify_format(stream)
        self._format, read = decoder.format, find_reader(decoder)
        with self._translated_errors():
            size = _stream_size(stream)
            if decoder.reads_whole_file and size > MAX_BYTES:
                raise ImageTooLargeError(
                    f"the file is larger than {MAX_BYTES // 2**20} MiB, and its format must be read as a whole"
                )
            opened = read(stream, self._max_pixels) if decoder.checks_pixels else read(stream)
            if isinstance(opened, Image.Image):
                if max_pixels is not None:
                    check_pixels(opened.size, max_pixels)
                opened = PillowFrames(opened, stream)
            self.frames: Frames = opened
            self.frames.missing = missing or self.frames.missing

    def names(self, selection: FrameSelection) -> Iterator[str]:
        """Yields the names of the frames that are selected; see frames.Frames.

        Raises:
            ImageError: at the end, if frames may be missing.
        """
        with self._translated_errors():
            yield from self.frames.names(selection)
        if self.frames.missing is not None:
            raise copy(self.frames.missing)  # one that was raised refers to this object: it would never be freed

    def find(self, name: str) -> int:
        """Returns the key of the frame of a name. Raises ImageNotFoundError if there is none."""
        with self._translated_errors():
            return self.frames.find(name)

    def decode_first(self) -> Image.Image:
        """Decodes the first frame that is not blank. If all are blank, decodes the first."""
        frames = self.frames
        first = self.decode(frames.first)
        if frames.count == 1 or "damaged" in self._facts or not is_blank(first):
            return first
        key, pixels = frames.first, first.width * first.height
        with suppress(ImageError), self._translated_errors():  # a damaged frame ends the search
            for _ in range(MAX_BLANK_FRAMES - 1):
                following = frames.following(key)
                if following is None or pixels > _MAX_BLANK_PIXELS:
                    break
                key, image = following, self.decode(following)
                if not is_blank(image):
                    return image
                pixels += image.width * image.height
        return first

    def decode(self, key: int) -> Image.Image:
        """Decodes one of the frames.

        Args:
            key: of one of `frames`.

        Returns:
            The image, as from `decode_image`. If the file has several frames, a later call does not change it.
        """
        with self._translated_errors():
            image = self._open_frame(key)
            rgb = self._to_rgb(image)
            if self.frames.count != 1 or self.frames.missing:
                if rgb is image:
                    rgb = image.copy()
                position = self.frames.position(key)
                rgb.info["frames"] = None if self.frames.missing else self.frames.count
                rgb.info["frame"] = None if position is None else position + 1
            return rgb

    def decode_reduced(self, resized_size: Callable[[Size], Size]) -> tuple[Image.Image, tuple[int, int]]:
        """Decodes a JPEG at a smaller scale, and any other file as `decode_first`; see `decode_reduced_image`."""
        if self._format != "JPEG":
            image = self.decode_first()
            return image, image.size
        with self._translated_errors():
            image = self._open_frame(0)
            full_size = _choose_scale(image, resized_size)
            return self._to_rgb(image), full_size

    def read_transposition(self, key: int | None) -> Image.Transpose | None:
        """Returns the transposition that turns one of the frames, or the first one, upright. Decodes it."""
        with self._translated_errors():
            image = self._open_frame(self.frames.first if key is None else key)
            image.load()
            return exif_transposition(image)

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        """Decodes a frame to one such as `load_image` returns. Its `info` has notes and facts alone.

        A text in the file may have any key.
        """
        image.load()
        rgb = to_rgb(image)
        notes = {key: rgb.info[key] for key in NOTES if isinstance(rgb.info.get(key), Note | tuple)}
        rgb.info = dict[Any, Any]({**notes, **self._facts})
        # libjpeg puts grey in place of what is missing.
        if "damaged" in self._facts and image.format == "JPEG" and is_blank(rgb, tolerance=0):
            raise CorruptImageError("nothing of its pixels is left")
        return rgb

    def _open_frame(self, key: int) -> Image.Image:
        """Returns a frame that is not decoded yet, or to which the file's declarations have been applied."""
        image = self.frames.open(key)
        check_pixels(image.size, self._max_pixels)
        if image.format == "JPEG":
            _limit_scans(image, self._stream)
            return image
        image = _apply_declarations(image, self._stream)
        return self._fill(image, convert_mode) if self._fill else image

    def _translated_errors(self) -> AbstractContextManager[None]:
        return translate_errors(self._format, self._stream)


def _apply_declarations(image: Any, stream: BinaryIO) -> Image.Image:
    """Applies what a file says about the pixels of a frame that has been opened, if Pillow does not."""
    # Not at the top of the file, because an ordinary JPEG needs none of it.
    from imgclassify.images.declared_colors import declare_colors
    from imgclassify.images.deep_samples import declare_levels, load_deep_heif, load_low_bits

    declare_colors(image, stream)
    if image.mode in GREY_MODES:
        declare_levels(image, stream)
    elif image.format == "PNG":
        image = load_low_bits(image) or image
    elif image.format == "HEIF":
        image = load_deep_heif(image, stream) or image
    elif image.format == "AVIF":
        image = _apply_clean_aperture(image, stream)
    return cast(Image.Image, image)


def _apply_clean_aperture(image: Image.Image, stream: BinaryIO) -> Image.Image:
    from imgclassify.images.clean_aperture import find_clean_aperture
    from imgclassify.images.iso_boxes import read_item_properties

    shown = find_clean_aperture(read_item_properties(stream), image.size)
    if shown is None:
        return image
    cropped = image.crop(shown)
    cropped.info = image.info  # with the orientation, which is applied after the crop
    return cropped


def _choose_scale(image: Image.Image, resized_size: Callable[[Size], Size]) -> tuple[int, int]:
    """Makes a JPEG that is not decoded yet decode at a smaller scale, if one is large enough.

    Returns:
        The upright (width, height) of the full image.
    """
    swaps_axes = exif_transposition(image) in SWAPS_AXES
    width, height = image.size[::-1] if swaps_axes else image.size
    least_height, least_width = (REDUCED_MARGIN * side for side in resized_size((height, width)))
    for scale in JPEG_SCALES:
        # libjpeg rounds the sides up.
        if -(-height // scale) >= least_height and -(-width // scale) >= least_width:
            # Pillow decodes at the smallest scale that leaves at least this size.
            image.draft(None, (image.width // scale, image.height // scale))
            break
    return width, height


def _stream_size(stream: BinaryIO) -> int:
    """Returns the size in bytes, and leaves the stream at its start."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size


def _limit_scans(image: Image.Image, stream: BinaryIO) -> None:
    """Makes a JPEG fail at the first scan beyond MAX_SCANS, while its data is read for decoding.

    Otherwise a progressive image of a few kilobytes could take hours.
    """
    header_bytes, scans, last = stream.tell(), 0, b""

    def read(size: int) -> bytes:
        nonlocal scans, last
        # A marker may begin with the last byte of the previous read.
        position = stream.tell() - len(last)
        data = stream.read(size)
        # Markers in the header are not counted: a thumbnail has scans of its own. The image's first scan starts
        # at the end of the header, so the image has one scan more than are counted here.
        scans += (last + data).count(_START_OF_SCAN, max(0, header_bytes - position))
        last = data[-1:]
        if scans >= MAX_SCANS:
            raise ImageTooLargeError(f"more than {MAX_SCANS} scans; each takes as long as a whole image")
        return data

    image.load_read = read  # type: ignore[attr-defined]
